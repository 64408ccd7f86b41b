"""The watchdog: systemd is told that the daemon lives while every part does; what hangs is named."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptd.health import Health
from adaptd.watchdog import LEAST_S, Watchdog, patience_s


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bytes]]:
    """Stand for systemd; return what reads what it was told."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    def read() -> list[bytes]:
        found = []
        try:
            while True:
                found.append(receiver.recv(4096))
        except BlockingIOError:
            return found

    return read


class Beats:
    """The beats of a writer and an inference loop, and a watchdog that looks at them."""

    def __init__(self) -> None:
        self.writer = self.inference = time.monotonic()
        self.reported: list[str] = []
        health = Health(60.0)
        health.watch("writer", lambda: self.writer)
        health.watch("inference", lambda: self.inference)
        self.watchdog = Watchdog(health, lambda code, message, hint: self.reported.append(f"{code}: {message}"))


def test_it_is_fed_while_all_turn_and_what_hangs_is_named_once(told: Callable[[], list[bytes]],
                                                               capfd: pytest.CaptureFixture[str]) -> None:
    beats = Beats()
    beats.watchdog.look()
    assert told() == [b"WATCHDOG=1"] and not beats.reported
    beats.inference -= 61.0
    beats.watchdog.look()
    beats.watchdog.look()
    assert told() == [] and beats.reported == ["stalled: no sign of life from: inference"]
    assert "test_watchdog.py" in capfd.readouterr().err  # where every thread stands
    beats.inference, beats.writer = time.monotonic(), math.inf  # inf: what has no limit
    beats.watchdog.look()
    assert told() == [b"WATCHDOG=1"]


def test_a_process_that_stood_still_as_a_whole_is_given_a_turn(told: Callable[[], list[bytes]]) -> None:
    beats = Beats()
    beats.writer -= 600.0
    beats.inference -= 600.0
    beats.watchdog._looked -= 600.0
    beats.watchdog.look()
    assert told() == [b"WATCHDOG=1"] and not beats.reported
    beats.inference = time.monotonic()
    beats.watchdog.look()
    assert told() == [] and beats.reported == ["stalled: no sign of life from: writer"]


@pytest.mark.parametrize(("usec", "patience"), [(None, 60.0), ("30000000", 60.0), ("10000000", 20.0), ("1000000", LEAST_S)])
def test_a_loop_may_stand_still_for_twice_systemds_limit(monkeypatch: pytest.MonkeyPatch, usec: str | None,
                                                         patience: float) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", usec) if usec else monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert patience_s() == pytest.approx(patience)
