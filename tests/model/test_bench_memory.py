"""`adaptd bench memory` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report
from adaptd.bench.memory import ALL, SHARES
from adaptd.policies import register_memory_policies
from tests.model.test_bench_strategies import write_set


def test_every_policy_has_a_row_for_each_capacity_and_the_page_a_section(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    command = ["bench", "memory", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    rows = {row["method"]: row for row in result["rows"]}
    names = [f"{kind.name} {share:.0%}" for kind in register_memory_policies() for share in SHARES]
    assert list(rows) == [f"{ALL} 100%", *names]
    for name, row in rows.items():
        assert row["retrievable"] + row["evicted"] == 48 and row["pooled final"] > 50.0, row  # 6 classes of 8 texts
        assert row["retrievable"] == int(48 * float(name.split()[1].rstrip("%")) / 100), row
    assert "## Bounded memory" in page.page([result], report.table, [])
