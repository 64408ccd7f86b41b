"""`adaptd bench consolidation` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report
from adaptd.bench.consolidation import WITHOUT
from adaptd.model.tuning import RATES
from tests.model.test_bench_strategies import write_set


def test_every_method_has_a_row_and_the_page_a_section(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    command = ["bench", "consolidation", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == [WITHOUT, *RATES, "full, distilled", "full, averaged"]
    for name, row in rows.items():
        assert row["together"] > 50.0, row  # 20 classes, each told by a word of its own
        assert name == WITHOUT or (row["alone"] > 25.0 and row["tuning cpu_s"] > 0), row
    text = page.page([result], report.table, [])
    assert "## Consolidation" in text and f"| {WITHOUT} |" in text and "| prefix |" in text
