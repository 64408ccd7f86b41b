"""Child processes of the daemon: quiet, first to go when memory is short, gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

from adaptd.errors import TrainingFailed

PR_SET_PDEATHSIG = 1
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
