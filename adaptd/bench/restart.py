"""Restart: from a kill -9 to ready, beside what the encoder takes to load in a process of its own, in turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from adaptd.bench.daemon import Daemon

WHAT = "restart after kill -9"
TIMES = 3
LOAD = [sys.executable, "-P", "-c", "from adaptd.model.encoder import Transformers; Transformers().load()"]


def measure(daemon: Daemon) -> dict[str, Any]:
    """Return the medians; what the last checkpoint does not hold is learned again before the daemon is ready."""
    ready, load = [], []
    for _ in range(TIMES):
        load.append(_seconds(partial(subprocess.run, LOAD, check=True, capture_output=True)))
        ready.append(_seconds(daemon.killed_and_started))
    ready_s, load_s = float(np.median(ready)), float(np.median(load))
    return {"value": ready_s - load_s, "ready_s": ready_s, "encoder_load_s": load_s, "memories": daemon.state()["memory"]}


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
