"""Health: one heartbeat per part of the daemon. Each part's own loop sends it; whoever watches reads how old it is.

A part either keeps its newest beat itself (`watch` is given what reads it) or calls `beat`. Beats are `time.monotonic()`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

STALL_S = 60.0  # a loop that has not turned for so long is hung
STALLED = "stalled"


@dataclass
class _Part:
    last: Callable[[], float] | None  # reads the newest beat of a part that keeps it itself
    limit_s: float | None
    state: Callable[[], str]
    at: float


class Health:
    """The parts that are watched, in the order in which they came."""

    def __init__(self, patience_s: float = math.inf) -> None:
        self._patience_s = patience_s  # no part has more
        self._parts: dict[str, _Part] = {}

    def watch(self, part: str, last: Callable[[], float] | None = None, *, limit_s: float | None = STALL_S,
              state: Callable[[], str] = lambda: "ok") -> None:
        """Watch a part from now on; `limit_s` is None for one that may be silent, `state` says more than its beat does."""
        self._parts[part] = _Part(last, None if limit_s is None else min(limit_s, self._patience_s), state, time.monotonic())

    def beat(self, part: str) -> None:
        """Note that a part's loop has turned."""
        self._parts[part].at = time.monotonic()

    def ages(self) -> dict[str, float]:
        """Return how long ago each part's loop turned, in seconds."""
        now = time.monotonic()
        return {name: max(0.0, now - (part.last() if part.last else part.at)) for name, part in self._parts.items()}

    def stuck(self) -> list[str]:
        """Name the parts whose loop has not turned within their limit."""
        return [name for name, age in self.ages().items() if _over(age, self._parts[name].limit_s)]

    def parts(self) -> dict[str, dict[str, str | float]]:
        """Return state ("stalled" where the loop does not turn) and age by part."""
        return {name: {"state": STALLED if _over(age, part.limit_s) else part.state(), "age_s": round(age, 3)}
                for (name, age), part in zip(self.ages().items(), self._parts.values(), strict=True)}


def _over(age: float, limit_s: float | None) -> bool:
    return limit_s is not None and age > limit_s
