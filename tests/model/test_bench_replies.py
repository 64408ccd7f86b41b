"""`adaptd bench replies` as a user calls it, on sets of a few texts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from adaptd.bench import page, report
from tests.model.test_bench_strategies import write_set

BANK = [("what does a card cost", "A card costs ten euros a year."), ("when are you open", "We are open from nine to five."),
        ("can I pay back my loan early", "A loan may be paid back at any time."),
        ("where is the next cash machine", "Use the map.")]


def run(folder: Path, name: str) -> dict[str, Any]:
    command = ["bench", "replies", "--set", name, "--seed", "0", "--quick", "--json", "--data-dir", str(folder), "--out",
               str(folder / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    assert "## Replies and documents" in page.page([found], report.table, [])
    return {row["method"]: row for row in found["rows"]}


def test_what_is_remembered_stands_beside_what_finds_words_and_what_never_learns(tmp_path: Path) -> None:
    write_set(tmp_path / "things")
    rows = run(tmp_path, "things")
    assert list(rows) == ["adaptd", "adaptd, abstain_error 10 %", "nearest neighbour", "BM25", "frozen once"]
    assert rows["adaptd"]["known right"] > rows["frozen once"]["known right"] and rows["BM25"]["known answered"] == 100


def test_questions_find_the_passages_that_answer_them(tmp_path: Path) -> None:
    (tmp_path / "bank_faq").mkdir()
    with gzip.open(tmp_path / "bank_faq" / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": q, "answer": a, "label": "x"}) + "\n" for q, a in BANK * 3)
    rows = run(tmp_path, "bank_faq")
    assert rows["adaptd"]["passages"] == 4 and rows["adaptd"]["recall@3"] >= 75
