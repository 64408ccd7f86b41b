"""Daemons that are forked from a process that has imported adaptd, see `forked/adaptd_life.py`: most of a start is imports.

The forked modules have names of their own: a distribution brings another package `tests` into the environment, and the
process that forks does not have pytest's way to ours.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

MODULES = Path(__file__).with_name("forked")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["adaptd_life", "crash_life"])
sys.path.insert(0, str(MODULES))  # here, and in the process that forks
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(MODULES), os.environ.get("PYTHONPATH")]))

from life import begin  # noqa: E402


class Process:
    """A forked daemon, as what `Daemon` wants of `subprocess.Popen`."""

    def __init__(self, module: str, *given: Any) -> None:
        self._process = CONTEXT.Process(target=begin, args=(module, *given))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("adaptd run", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.send_signal(signal.SIGKILL)
