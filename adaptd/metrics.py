"""Prequential metrics: what was answered at the time against the label that came later (Gama et al., 2013).

Pure folds over outcomes in journal order. Drift is river's ADWIN over the errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adaptd.records import Row

WINDOW = 1000  # outcomes


class Outcomes:
    """Right and wrong answers, in the order their labels came."""

    def __init__(self) -> None:
        self.total = 0
        self.right = 0
        self.window: deque[int] = deque(maxlen=WINDOW)
        self.drifts = 0
        self._detector: Any = None

    def add(self, right: bool) -> None:
        """Count one outcome."""
        self.total += 1
        self.right += right
        self.window.append(int(right))
        if self._detect(int(right)):
            self.drifts += 1

    def _detect(self, right: int) -> bool:
        if self._detector is None:
            from river.drift import ADWIN  # 2 s: only a process that has outcomes pays

            self._detector = ADWIN()  # type: ignore[no-untyped-call]
            for earlier in list(self.window)[:-1]:
                self._detector.update(1 - earlier)
        self._detector.update(1 - right)
        return bool(self._detector.drift_detected)

    @property
    def accuracy(self) -> float | None:
        """Accuracy over the window, None before the first outcome."""
        return sum(self.window) / len(self.window) if self.window else None

    def facts(self) -> dict[str, Any]:
        """Return the fold for a file."""
        return {"total": self.total, "right": self.right, "drifts": self.drifts, "window": "".join(map(str, self.window))}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Outcomes:
        """Rebuild a fold from its facts."""
        outcomes = cls()
        outcomes.total, outcomes.right, outcomes.drifts = facts["total"], facts["right"], facts["drifts"]
        outcomes.window.extend(int(c) for c in facts["window"])
        return outcomes


class Comparison:
    """Two models on the same labelled events: the outcomes of the newest, pairwise, in the order their labels came."""

    def __init__(self) -> None:
        self.total = 0
        self.window: deque[tuple[bool, bool]] = deque(maxlen=WINDOW)  # ours was right, the other was

    def add(self, ours: bool, other: bool) -> None:
        """Count one event."""
        self.total += 1
        self.window.append((ours, other))

    def facts(self) -> dict[str, Any]:
        """Return the fold for a file."""
        return {"total": self.total, "window": "".join(str(2 * ours + other) for ours, other in self.window)}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Comparison:
        """Rebuild a fold from its facts."""
        comparison = cls()
        comparison.total = facts["total"]
        comparison.window.extend((c in "23", c in "13") for c in facts["window"])
        return comparison


def count_answers(prequential: Outcomes, per_label: dict[str, list[int]], rows: Iterable[Row],
                  given: Mapping[int, Mapping[str, str | None]]) -> None:
    """Count what events were answered with at the time (`given`, by event) against the labels that came."""
    for row in rows:
        if row.event in given and row.head in given[row.event]:
            right = given[row.event][row.head] == row.target
            prequential.add(right)
            tally = per_label.setdefault(row.target, [0, 0])
            tally[0], tally[1] = tally[0] + right, tally[1] + 1


def forgetting(evaluations: Sequence[Mapping[str, float]]) -> float | None:
    """Return the mean over classes of (best accuracy ever - last accuracy), over evaluations in order.

    >>> forgetting([{"a": 1.0}, {"a": 0.9, "b": 1.0}])
    0.05
    """
    if not evaluations:
        return None
    last = evaluations[-1]
    losses = [max(e[c] for e in evaluations if c in e) - accuracy for c, accuracy in last.items()]
    return round(sum(losses) / len(losses), 6) if losses else None
