"""`adaptd bench abstain` as a user calls it, on a set of a few texts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

from adaptd.bench import page, report
from tests.model.test_bench_strategies import write_set

STRANGE = ("a segmentation fault in libc", "eigenvalues of a sparse matrix", "the treaty of westphalia",
           "photosynthesis in algae")


def write_outsiders(folder: Path) -> None:
    """Write a CLINC150 of a few queries, of which one is on banking."""
    folder.mkdir()
    rows = [{"text": text, "label": "trivia", "domain": "small_talk", "split": "test"} for text in STRANGE]
    banking = {"text": "what is my balance", "label": "balance", "domain": "banking", "split": "test"}
    with gzip.open(folder / "data.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in (*rows, banking))


def test_rates_that_are_kept_stand_beside_what_answering_all_costs(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "things")
    write_outsiders(tmp_path / "data" / "clinc150")
    command = ["bench", "abstain", "--set", "things", "--seed", "0", "--quick", "--json",
               "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "adaptd", *command], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)[0]
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["answers all", "abstain_error 2 %", "abstain_error 5 %", "abstain_error 10 %", "out_of_scope 5 %",
                          "max softmax 5 %"]
    assert rows["answers all"]["in scope withheld"] == 0 and rows["answers all"]["ECE"] is not None
    assert rows["out_of_scope 5 %"]["AUROC"] > 80 and rows["abstain_error 2 %"]["in scope withheld"] > 90  # of 160 outcomes
    assert "## Abstention" in page.page([result], report.table, [])
