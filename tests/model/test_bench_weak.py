"""`adaptd bench weak` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report, weak
from tests.model.test_bench_strategies import write_set


def test_pseudo_and_weak_labels_stand_beside_few_true_ones(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    command = ["bench", "weak", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    assert [row["method"].split(",")[0] for row in result["rows"]] == ["pseudo", "20% wrong", "60% wrong"]
    assert len({row["without"] for row in result["rows"]}) == 1
    assert "## Weak labels" in page.page([result], report.table, [])


def test_a_share_of_labels_is_wrong_and_none_by_chance_right() -> None:
    labels = ["a", "b", "c"] * 1000
    said = weak.wrong(labels, 0.6, 0)
    assert 0.55 < sum(one != other for one, other in zip(labels, said, strict=True)) / 3000 < 0.65
