"""The trainer as a real process: a folder in, a folder out, or one line that says why not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptd import trainer
from adaptd.errors import CorruptFile, TrainingFailed
from adaptd.model import files
from adaptd.model.attention import Adapter
from tests.model.check_strategy import CLASSES, DIM, gaussians


def make_folder(folder: Path, **job: Any) -> Path:
    """Write a job with 240 rows of which the last 80 are new; at normal priority, as tests share the machine."""
    vectors, targets = gaussians(40)
    (folder / "in").mkdir(parents=True)
    wanted = {"strategy": "replay", "labels": [f"class {n}" for n in range(CLASSES)], "rank": 16, "nice": 0,
              "parent_pid": os.getpid()}
    (folder / "in" / "job.json").write_text(json.dumps(wanted | job))
    write_rows(folder, vectors, targets, torch.arange(240) >= 160)
    (folder / "in" / "adapter.safetensors").write_bytes(files.dump_adapter(Adapter()))
    return folder


def write_rows(folder: Path, vectors: torch.Tensor, targets: torch.Tensor, fresh: torch.Tensor) -> None:
    tensors = {"vectors": vectors, "targets": targets, "fresh": fresh.to(torch.uint8)}
    (folder / "in" / "rows.safetensors").write_bytes(files.dump(tensors, {}))


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adaptd.trainer", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def refusal(folder: Path) -> dict[str, Any]:
    """Run a job that must fail; return what it said."""
    done = run(folder)
    assert done.returncode == 1, done.stderr
    assert not (folder / "out" / "report.json").exists()
    said: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return said


def test_a_folder_in_a_folder_out_and_the_same_bytes_again(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path / name, options={"steps": 20}) for name in ("a", "b")]
    for folder in folders:
        done = run(folder)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["progress"] == 1.0
    report = json.loads((folders[0] / "out" / "report.json").read_text())
    assert report["numbers"]["loss_new_after"] < report["numbers"]["loss_new_before"]
    assert (report["rows"], report["new"], report["strategy"]) == (240, 80, "replay")
    assert set(report["versions"]) == {"adaptd", "torch", "avalanche-lib"}
    first, second = [(folder / "out" / "adapter.safetensors").read_bytes() for folder in folders]
    assert first == second
    adapter = files.parse_adapter(first, "adapter", DIM)
    assert adapter.rank(DIM) == 16 and len(adapter.log_value) == CLASSES
    assert sorted(path.name for path in (folders[0] / "out").iterdir()) == ["adapter.safetensors", "losses.json", "report.json"]
    losses = json.loads((folders[0] / "out" / "losses.json").read_text())
    assert losses[-1] == report["numbers"]["loss_last"] < losses[0]


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "job", options={"steps": 10_000_000})
    parent = f"""
import json, os, pathlib, subprocess, sys
job = pathlib.Path({str(folder)!r}) / "in" / "job.json"
job.write_text(json.dumps(json.loads(job.read_text()) | {{"parent_pid": os.getpid()}}))
subprocess.run([sys.executable, "-m", "adaptd.trainer", {str(folder)!r}])
"""
    middle = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert middle.stdout is not None
    assert '"progress"' in middle.stdout.readline()  # it trains; the trainer holds the same pipe
    middle.send_signal(signal.SIGKILL)
    middle.communicate(timeout=240)  # the pipe ends: the trainer is gone too
    assert not (folder / "out").exists()


def test_a_parent_that_is_gone_already(tmp_path: Path) -> None:
    assert "is gone" in refusal(make_folder(tmp_path / "job", parent_pid=1))["message"]


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    said = refusal(make_folder(tmp_path / "job", strategy="repaly"))
    assert (said["code"], said["field"]) == ("bad_config", "adapt.strategy")
    assert "replay" in said["hint"]


def test_a_job_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="job.stratgy: unknown option"):
        trainer.read_job(make_folder(tmp_path / "job", stratgy="replay"))


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"job\.json"):
        trainer.read_job(tmp_path)


def read(folder: Path, classes: int = CLASSES) -> trainer.Rows:
    return trainer.read_rows(folder / "in" / "rows.safetensors", classes, 0)


def test_rows_that_are_not_sound_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "job")
    vectors, targets = gaussians(40)
    fresh = torch.arange(240) >= 160
    with pytest.raises(CorruptFile, match="a target is not the index of one of 3 labels"):
        read(folder, classes=3)
    write_rows(folder, torch.full_like(vectors, float("nan")), targets, fresh)
    with pytest.raises(CorruptFile, match="not finite"):
        read(folder)
    write_rows(folder, vectors, targets[:100], fresh)
    with pytest.raises(CorruptFile, match="not one row each"):
        read(folder)
    write_rows(folder, vectors, targets, torch.zeros(240))
    with pytest.raises(TrainingFailed, match="no new rows"):
        read(folder)
    (folder / "in" / "rows.safetensors").write_bytes(b"not a file of rows")
    with pytest.raises(CorruptFile, match=r"rows\.safetensors"):
        read(folder)


def test_many_rows_are_sampled_class_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "MOST_ROWS", 20)
    folder = make_folder(tmp_path / "job")
    rows = read(folder)
    assert int(rows.fresh.sum()) == 20 and len(rows.targets) == 40
    assert torch.bincount(rows.targets).tolist() == [5, 5, 5, 5, 10, 10]
    assert rows.targets.tolist() == sorted(rows.targets.tolist())  # oldest first, as in the file
    assert torch.equal(rows.vectors, read(folder).vectors)
