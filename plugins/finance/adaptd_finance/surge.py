"""Surge: does a yes come more often than it did? A sequential test, read after each event. Pure.

An e-detector (Shin, Ramdas and Rinaldo, 2024) of the CUSUM kind (Page, 1954): the likelihood ratio of `SURGE` times the odds
against `TOLERATED` times the odds that were usual before is multiplied up, event by event, and begins anew where it falls below
one. As long as the odds are at most the tolerated ones, it reaches a threshold c on average not before c events (Lorden, 1971).
What was usual is taken at its upper confidence limit, so that a short past does not alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

TOLERATED, SURGE = 1.1, 3.0  # times the usual odds: what is no surge yet, and what is one
FROM = 50  # events before which nothing is usual
NORMAL = 500  # events after which a surge is what is usual
Z = 1.96  # of the upper confidence limit


@dataclass
class Run:
    """Evidence that goes on: since which event, and which yeses are in it."""

    since: int  # events before it
    usual: float
    evidence: float = 0.0  # logarithm
    alarmed: bool = False
    yeses: list[str] = field(default_factory=list)  # ids

    def take(self, yes: bool, limit: float) -> None:
        """Multiply in one event; `limit` is where the evidence is capped, so that an end is seen."""
        low, high = _share(self.usual, TOLERATED), _share(self.usual, SURGE)
        self.evidence += math.log(high / low if yes else (1 - high) / (1 - low))
        self.evidence = min(self.evidence, limit)
        self.alarmed = self.alarmed or self.evidence >= limit


@dataclass
class Surge:
    """One kind of yes among the events of a stream."""

    yeses: int = 0  # before the run
    run: Run | None = None

    def see(self, event: str, yes: bool, before: int, limit: float) -> Run | None:
        """Take the next event in, behind `before` others; return the run that alarms just now."""
        if self.run is None and yes and before >= FROM:
            self.run = Run(since=before, usual=upper(self.yeses, before))
        self.yeses += yes
        if (run := self.run) is None:
            return None
        alarmed = run.alarmed
        run.take(yes, limit)
        run.yeses += [event] if yes else []
        if run.evidence <= 0.0 or before - run.since >= NORMAL:
            self.run = None
        return run if run.alarmed and not alarmed else None


def upper(yeses: int, events: int) -> float:
    """Return the upper 97.5 % confidence limit of a share (Wilson, 1927).

    >>> round(upper(0, 50), 3), round(upper(500, 1000), 3)
    (0.071, 0.531)
    """
    share, spread = yeses / events, Z * Z / events
    return (share + spread / 2 + Z * math.sqrt(share * (1 - share) / events + spread / events / 4)) / (1 + spread)


def _share(usual: float, times: float) -> float:
    odds = times * usual / max(1 - usual, 1e-9)
    return odds / (1 + odds)
