"""Waits, each with an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

WAIT_S = 240.0  # a busy machine: a limit, not an expectation


def until(condition: Callable[[], Any], what: str, limit_s: float = WAIT_S, every_s: float = 0.05) -> Any:
    """Return the condition's first true value.

    Raises
    ------
    TimeoutError
        There is none in time.
    """
    pause, end = threading.Event(), time.monotonic() + limit_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        pause.wait(every_s)
    return value
