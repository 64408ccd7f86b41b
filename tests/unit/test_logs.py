"""Logs: who reads the audit gets it whatever the level is, and logs of adaptations do not fill the disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptd import runlog

LEVELS = """
import logging, adaptd.api.guard
from adaptd.config import Log
from adaptd.host import log_to_stderr
before = logging.getLogger("adaptd.audit").level
log_to_stderr(Log(level="error"))
print(before, logging.getLogger("adaptd.audit").isEnabledFor(logging.INFO))
"""


def test_an_import_configures_no_logger_and_the_daemon_hears_the_audit_at_any_level() -> None:
    done = subprocess.run([sys.executable, "-c", LEVELS], capture_output=True, text=True, timeout=240)
    assert done.stdout == "0 True\n", done.stderr


def test_the_oldest_runs_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runlog, "KEPT", 2)
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0, "", ""))
    folder = tmp_path / "runs" / "tensorboard"
    for number in range(4):
        (folder / f"v{number}").mkdir(parents=True)
        (folder / f"v{number}" / "events").touch()
        os.utime(folder / f"v{number}", (number, number))
    (folder / "latest").symlink_to(folder / "v3")
    runlog.write(runlog.Run(parent_pid=1, log=["tensorboard"], domain="text", head="label", version=4, decision="promote",
                            config={}, losses=[], figures={}), tmp_path / "runs")
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "v2", "v3"]
