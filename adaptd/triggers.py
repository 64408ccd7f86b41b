"""Triggers: when an adaptation starts by itself, from what came since the last one and what earlier ones came to.

By count of labels, doubled for each adaptation in a row that gained nothing, so that what does not help costs less and less; by
drift, where the errors rise (ADWIN over the prequential error, `adaptd.metrics`); by worth, where the errors that it is expected
to prevent are enough for its CPU seconds. The schedule is a clock's (`adaptd.jobs`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from adaptd import config
from adaptd import tables as t
from adaptd.metrics import RIGHT, Outcomes

MOST_DOUBLINGS = 4
RECORD = 20  # newest adaptations that are looked at
WORTH_OF = 5  # of those that had a candidate, from which the next one's worth is foretold
RECENT = 200  # newest outcomes whose errors a drift must have made more


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What an earlier adaptation came to."""

    promoted: bool
    barren: bool  # it gained nothing, and not for want of held-out rows
    gain: float = 0.0  # in accuracy, measured by the gate; of one that was not promoted there is none
    labels: int = 0  # that it had as an experience
    cpu_s: float = 0.0  # of its training


class Triggers:
    """What came since the last adaptation began, and whether that is enough for another one."""

    def __init__(self, tried: Sequence[Tried], labels: int) -> None:
        self.tried = tried  # oldest first
        self.labels = labels
        self._drifts = 0  # that were seen already
        self._drifted = False

    def begun(self) -> None:
        """Begin anew: an adaptation has started."""
        self.labels, self._drifted = 0, False

    def due(self, settings: config.Adapt, labels: int, outcomes: Outcomes) -> str | None:
        """Take learned labels into account; return why an adaptation is due, None while none is."""
        self.labels += labels
        if outcomes.drifts > self._drifts and _is_worse(outcomes):
            self._drifted = True
        self._drifts = outcomes.drifts
        if not settings.enabled:
            return None
        at = self.at_labels(settings)
        if at is not None and self.labels >= at:
            return f"{self.labels} new labels"
        if self.labels < settings.min_labels * self.backed_off:
            return None
        if settings.on_drift and self._drifted:
            return f"drift: errors have risen; {self.labels} new labels"
        worth = self.worth()
        if settings.worth and worth is not None and worth >= settings.worth:
            return f"worth {worth:.3g} errors a CPU second; {self.labels} new labels"
        return None

    @property
    def backed_off(self) -> int:
        """How often as many labels as usual are wanted: twice as many for each adaptation in a row that gained nothing."""
        fruitless = 0
        for one in reversed(self.tried):
            if one.promoted:
                break
            fruitless += one.barren
        return 1 << min(fruitless, MOST_DOUBLINGS)

    def at_labels(self, settings: config.Adapt) -> int | None:
        """Return the count of labels at which the next adaptation starts, None where none does by count."""
        return settings.every_labels * self.backed_off if settings.enabled and settings.every_labels else None

    def worth(self) -> float | None:
        """Return the errors that an adaptation is expected to prevent, a CPU second; None before there was a candidate.

        Among as many labelled events as came since the last one, with the gain in accuracy that a label had so far.
        """
        known = [one for one in self.tried if one.labels and one.cpu_s][-WORTH_OF:]
        if not known:
            return None
        gain = sum(one.gain for one in known) / sum(one.labels for one in known) * self.labels
        return gain * self.labels / (sum(one.cpu_s for one in known) / len(known))

    def facts(self, settings: config.Adapt) -> dict[str, Any]:
        """Return it for the status."""
        return {"labels": self.labels, "at_labels": self.at_labels(settings), "backed_off": self.backed_off,
                "drifted": self._drifted, "worth": self.worth(), "every": settings.every if settings.enabled else None}


def _is_worse(outcomes: Outcomes) -> bool:
    """Say whether the newest errors are more than those before: ADWIN finds it when they become fewer, too."""
    window = [outcome != RIGHT for outcome in outcomes.window]
    recent, before = window[-RECENT:], window[:-RECENT]
    return bool(before) and sum(recent) / len(recent) > sum(before) / len(before)


def read(connection: Connection, domain: int, *, consolidations: bool = False) -> list[Tried]:
    """Return what the newest adaptations came to, oldest first; those that were cancelled are nobody's fault.

    Consolidations are looked at by themselves.
    """
    what = t.action.c.what
    query = (select(what, t.version.c.verdict, t.version.c.metrics).select_from(t.action)
             .outerjoin(t.version, (t.version.c.number == t.action.c.after) & what.startswith("verdict-"))
             .where(t.action.c.domain == domain, what.startswith("verdict-") | what.in_(("adapt-failed", "consolidate-failed")))
             .order_by(t.action.c.id.desc()).limit(RECORD))
    found = [(what, json.loads(verdict or "{}"), json.loads(metrics or "{}"))
             for what, verdict, metrics in reversed(connection.execute(query).all())]
    return [_tried(*one) for one in found if _consolidated(one[0], one[2]) == consolidations]


def _consolidated(what: str, metrics: Mapping[str, Any]) -> bool:
    return what == "consolidate-failed" or is_consolidation(metrics)


def is_consolidation(metrics: Mapping[str, Any]) -> bool:
    """Say whether a candidate's metrics are a consolidation's."""
    recipe: Mapping[str, Any] = metrics.get("trained", {}).get("recipe", {})
    return recipe.get("strategy") == "consolidate"


def _tried(what: str, verdict: Mapping[str, Any], metrics: Mapping[str, Any]) -> Tried:
    evidence, holdout, training = verdict.get("evidence") or {}, metrics.get("holdout") or {}, metrics.get("training") or {}
    rows = evidence.get("n", 0)
    wants_rows = what == "verdict-undecided" and rows < max(evidence.get("rows_needed", 0), evidence.get("min_rows", 0))
    promoted = what == "verdict-promote"
    gain = (holdout.get("candidate") or 0.0) - (holdout.get("champion") or 0.0) if promoted else 0.0
    return Tried(promoted=promoted, barren=not promoted and not wants_rows, gain=gain, labels=int(training.get("new", 0)),
                 cpu_s=float(training.get("cpu_seconds", 0.0)))


def labels_since(connection: Connection, domain: int, seq: int) -> int:
    """Return how many labels were learned after a seq."""
    query = select(func.count()).select_from(t.learned).where(t.learned.c.domain == domain, t.learned.c.born > seq)
    return connection.scalar(query) or 0
