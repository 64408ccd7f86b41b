"""Child processes of the daemon: quiet, first to go when memory is short, gone when their parent is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def be_a_quiet_child(parent: int, threads: int) -> None:
    """Lower this process's priority, offer it to the OOM killer first, and tie its life to its parent's."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.nice(19)
    with contextlib.suppress(OSError):  # not ours to set in some containers
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("800")
    import torch

    torch.set_num_threads(threads)
