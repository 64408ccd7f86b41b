"""Child processes of the daemon: quiet, first to go when memory is short, gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from adaptd.errors import TrainingFailed
from adaptd.tomlfile import VARIABLES

PR_SET_PDEATHSIG = 1
LOOK_S = 0.1  # between two looks at whether somebody suffers
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
STOPPED_S, RUNNING_S = 1.0, 0.25  # a child is stopped for so long at most, and then runs for so long at least
NICE = 10  # lower than the daemon, not so low that a busy machine starves it
OOM_SCORE = "800"  # of 1000


def be_a_quiet_child(parent: int, nice: int = NICE) -> None:
    """Lower this process's priority, offer it to the OOM killer first, and tie its life to its parent's.

    Raises
    ------
    TrainingFailed
        The parent is gone already.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        raise TrainingFailed(f"the parent, process {parent}, is gone")
    os.nice(nice)
    with contextlib.suppress(OSError):  # not ours to set in some containers: a wish, not a need
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def environment() -> dict[str, str]:
    """Return what a child may inherit: no setting, and no variable that the configuration names as a secret."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ADAPTD_") and name not in VARIABLES}


def memory_mb(pid: int) -> float:
    """Return the memory that a process alone holds; 0 when it is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return (int(resident) - int(shared)) * PAGE_MB


class GivingWay:
    """Stops a child while others suffer, for a moment at a time and half its time in all; ends it when it takes too much.

    Its time is what it runs: while it is stopped, that stands still. So it comes to its end whatever happens. Its memory is
    what it alone holds, libraries and files that it maps apart; it is looked at every tenth of a second.
    """

    def __init__(self, child: subprocess.Popen[str], what: str, limit_s: float,
                 suffers: Callable[[], bool] = lambda: False, limit_mb: int = 0) -> None:
        self.stopped_s = 0.0
        self._child = child
        self._what = what
        self._limit_s = limit_s
        self._suffers = suffers
        self._limit_mb = limit_mb
        self._exceeded: TrainingFailed | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="giving-way", daemon=True)

    def __enter__(self) -> GivingWay:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Let go of the child.

        Raises
        ------
        TrainingFailed
            It was ended, as its time was over or it had more memory than it may.
        """
        self._over.set()
        self._thread.join()
        if self._exceeded is not None and raised[0] is None:
            raise self._exceeded

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(LOOK_S):
            self._exceeded = self._too_much(time.monotonic() - began - self.stopped_s)
            if self._exceeded is not None:
                self._child.kill()
                return
            if self.stopped_s < self._limit_s / 2 and self._suffers():
                self._stop()
                self._over.wait(RUNNING_S)

    def _too_much(self, ran_s: float) -> TrainingFailed | None:
        """Say what it took more of than it may, None while it did not."""
        if ran_s > self._limit_s:
            return TrainingFailed(f"{self._what} took longer than {self._limit_s:g} s",
                                  hint="raise adapt.time_limit_s, or lower adapt.options.steps")
        if self._limit_mb and memory_mb(self._child.pid) > self._limit_mb:
            return TrainingFailed(f"{self._what} took more than {self._limit_mb} MB of memory",
                                  hint="raise adapt.memory_limit_mb, or lower adapt.options.batch or memory.capacity")
        return None

    def _stop(self) -> None:
        began = time.monotonic()
        self._child.send_signal(signal.SIGSTOP)
        try:
            while self._suffers() and time.monotonic() - began < STOPPED_S and not self._over.wait(LOOK_S):
                pass
        finally:
            self._child.send_signal(signal.SIGCONT)
            self.stopped_s += time.monotonic() - began
