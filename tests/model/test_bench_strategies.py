"""`adaptd bench strategies` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report
from adaptd.bench.strategies import NEVER
from adaptd.strategies import register_strategies

THINGS = ("card", "bill", "flight", "song", "recipe", "alarm", "parcel", "visa", "salary", "battery",
          "passport", "printer", "garden", "dentist", "lottery", "hotel", "engine", "ticket", "mortgage", "weather")


def write_set(folder: Path) -> None:
    """Write a set of 20 classes, each with eight training texts and two others."""
    folder.mkdir(parents=True)
    asked = ("what about my {}", "tell me of the {}", "the {} please", "a question on a {}", "is the {} ready",
             "where is my {}", "change the {}", "i lost a {}", "how is the {}", "my {} is wrong")
    rows = [{"text": words.format(thing), "label": thing, "split": "train" if place < 8 else "test"}
            for thing in THINGS for place, words in enumerate(asked)]
    with gzip.open(folder / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_every_strategy_has_a_row_beside_no_adaptation_and_the_page_a_section(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    command = ["bench", "strategies", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == [NEVER, *(strategy.name for strategy in register_strategies())]
    for name, row in rows.items():
        assert row["final"] > 50.0 and row["attention final"] > 50.0, row  # 6 classes, some tests of them
        assert (row["training cpu_s"] > 0) == (name != NEVER)
    assert [result["name"]] == [file.stem for file in (tmp_path / "out").glob("*.json")]
    text = page.page([result], report.table, [])
    assert "## Strategies" in text and f"| {NEVER} |" in text and "| derpp |" in text
