"""A child that gives way: it stands still while others suffer, never for long, and comes to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from adaptd.errors import TrainingFailed
from adaptd.process import LOOK_S, GivingWay, environment
from adaptd.records import Alert
from adaptd.sinks import Command
from adaptd.tomlfile import resolved
from adaptd.training import start
from tests.acceptance.daemon import until

ALERT = Alert(id="a1", key="k1", kind="problem", code="c", subject="s", message="m", hint="", since=1.0, at=2.0, host="h",
              store="s")


def state(child: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_it_is_stopped_while_others_suffer_and_goes_on_afterwards() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    suffers = threading.Event()
    try:
        with GivingWay(child, "it", 120.0, suffers.is_set) as way:
            until(lambda: state(child) in "SR", "it runs")
            suffers.set()
            until(lambda: state(child) == "T", "it is stopped")
            until(lambda: state(child) != "T", "it runs now and then all the same", 10.0, every_s=0.01)
            until(lambda: state(child) == "T", "it is stopped again")
            suffers.clear()
            until(lambda: state(child) != "T" and way.stopped_s > 0, "it goes on")
            suffers.set()
            until(lambda: state(child) == "T", "it is stopped")
        assert state(child) != "T"  # whoever waits for its end gets it
        child.communicate("\n", timeout=240)
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


def test_a_child_inherits_no_setting_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the variable is called that the configuration names."""
    for name in ("ADAPTD_LOG__LEVEL", "SMTP_PASSWORD", "HARMLESS"):
        monkeypatch.setenv(name, "x")
    assert {"SMTP_PASSWORD", "HARMLESS"} <= environment().keys()
    resolved({"alerts": {"mail": {"options": {"password": {"$env": "SMTP_PASSWORD"}}}}}, tmp_path)
    assert {"HARMLESS", "PATH"} <= environment().keys() and not {"ADAPTD_LOG__LEVEL", "SMTP_PASSWORD"} & environment().keys()
    code = "import os, sys; sys.exit('SMTP_PASSWORD' in os.environ)"
    Command(argv=[sys.executable, "-c", code]).send(ALERT)
    (tmp_path / "child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert start("child", tmp_path).wait(30) == 0


def test_it_is_not_stopped_for_longer_than_it_may_be() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    try:
        with GivingWay(child, "it", 30.0, lambda: True) as way:
            way.stopped_s = 15.0
            until(lambda: state(child) != "T", "it goes on")
            time.sleep(3 * LOOK_S)
            assert state(child) != "T"
    finally:
        child.kill()
        child.wait()


def test_its_time_stands_still_while_it_is_stopped() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    began = time.monotonic()
    try:
        with pytest.raises(TrainingFailed, match=r"training took longer than 1 s"):
            with GivingWay(child, "training", 1.0, lambda: True) as way:
                child.wait(30.0)
        assert child.returncode == -signal.SIGKILL
        assert way.stopped_s >= 0.5 and time.monotonic() - began >= 1.0 + way.stopped_s
    finally:
        child.kill()
        child.wait()
