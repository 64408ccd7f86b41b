"""`adaptd demo` plays its story with a real daemon and leaves nothing behind, also when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adaptd.cli.group import INTERRUPTED
from adaptd.demo import TERMINATED
from adaptd.demo.data import diagnoses

pytestmark = pytest.mark.acceptance


@pytest.fixture
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="d-") as folder:  # short: a unix socket's path is bounded
        yield Path(folder)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Write a file as a user would have it: the first three topics of the shipped data, and one that comes later."""
    rows = [row for day in diagnoses().days[:2] for row in day]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({"text": row.text, "label": row.label, "time": place}) + "\n"
                            for place, row in enumerate(rows)))
    return file


def start(own: Path, out: Path, temporary: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "200"}
    command = [sys.executable, "-P", "-m", "adaptd", "demo", "--data", str(own), "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(temporary: Path) -> list[int]:
    """List the processes whose command line names the temporary folder."""
    return [process.pid for process in psutil.process_iter(["cmdline"])
            if any(str(temporary) in part for part in process.info["cmdline"] or ())]


@pytest.mark.slow
def test_the_story_ends_well_and_is_reported(own: Path, tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "out"
    process = start(own, out, temporary)
    said, words = process.communicate(timeout=280)
    assert process.returncode == 0, words
    assert said.split() == [str(out / "accuracy.png"), str(out / "report.json")]
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((out / "report.json").read_text())
    named = {when: figures["adaptd"] for when, figures in report["named"].items()}
    assert report["problems"] == []
    assert {"topic", "night", "adapt", "rollback", "resume"} <= {mark["kind"] for mark in report["marks"]}
    assert all(a["verdict"] in ("promote", "reject", "undecided") and a["reasons"] for a in report["adaptations"])
    assert named["morning after"] < named["before the burst"]
    assert named["after rollback"] == named["before the burst"]
    assert report["status"]["held"] == ["intern"] and report["spoilt"][-1]["held"]
    assert report["rollback"]["learned_at_resume"] > 0 and "Rollback to version" in words
    assert alive(temporary) == [] and list(temporary.glob("adaptd-*")) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_stopped_in_the_middle_it_leaves_nothing(own: Path, tmp_path: Path, temporary: Path, number: signal.Signals,
                                                 code: int) -> None:
    process = start(own, tmp_path / "out", temporary)
    assert process.stderr is not None
    assert any("the daemon is ready" in line for line in process.stderr), "it never got ready"
    assert alive(temporary)
    process.send_signal(number)
    process.communicate(timeout=240)
    assert process.returncode == code
    assert alive(temporary) == [] and list(temporary.glob("adaptd-*")) == []


def test_a_bad_file_is_refused_before_anything_starts(tmp_path: Path, temporary: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "alone"}\n')
    process = start(file, tmp_path / "out", temporary)
    _, words = process.communicate(timeout=240)
    assert process.returncode == 1 and "own.jsonl:1: label" in words and "hint:" in words
    assert list(temporary.glob("adaptd-*")) == []
