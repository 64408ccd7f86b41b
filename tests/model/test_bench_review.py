"""`adaptd bench review` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report
from tests.model.test_bench_strategies import write_set


def test_a_fifth_that_is_chosen_stands_beside_a_random_fifth_and_all_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    command = ["bench", "review", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["review 20%", "random 20%", "all labels"]
    assert rows["review 20%"]["labels"] == rows["random 20%"]["labels"] == rows["all labels"]["labels"] // 5
    assert rows["all labels"]["share of all"] == 100 and rows["review 20%"]["accuracy"] > 50
    assert "## Review" in page.page([result], report.table, [])
