"""Prequential metrics: what was answered at the time against the label that came later (Gama et al., 2013).

Pure folds over outcomes in journal order. Drift is river's ADWIN over the errors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from adaptd.records import Row, Said

WINDOW = 1000  # outcomes
WRONG, RIGHT, WITHHELD = 0, 1, 2  # what an outcome is in the window
BINS, HALF_LIFE = 15, 1000.0  # of the calibration error; answers


class Calibration:
    """How far stated confidence lies from accuracy: per bin, sums that lose half their weight every 1,000 answers.

    Expected calibration error over 15 bins of equal width (Guo et al., 2017), and Brier's score (1950) of the label that
    was answered.
    """

    def __init__(self) -> None:
        self.weight, self.confidence, self.right = [0.0] * BINS, [0.0] * BINS, [0.0] * BINS
        self.squares = 0.0

    def add(self, confidence: float, right: bool) -> None:
        """Count one answer that was given; what states no share, as a generator once could, is no confidence and not counted."""
        if not 0.0 <= confidence <= 1.0:
            return
        keep = 0.5 ** (1.0 / HALF_LIFE)
        place = min(int(confidence * BINS), BINS - 1)
        for sums, value in ((self.weight, 1.0), (self.confidence, confidence), (self.right, float(right))):
            sums[:] = [keep * one for one in sums]
            sums[place] += value
        self.squares = keep * self.squares + (confidence - right) ** 2

    def figures(self) -> dict[str, Any] | None:
        """Return errors and the reliability diagram, a row for each bin with answers; None before the first one."""
        if not (total := sum(self.weight)):
            return None
        gaps = (abs(c - r) for c, r in zip(self.confidence, self.right, strict=True))
        rows = zip(self.weight, self.confidence, self.right, strict=True)
        return {"ece": sum(gaps) / total, "brier": self.squares / total,
                "bins": [{"confidence": c / w, "accuracy": r / w, "share": w / total} for w, c, r in rows if w]}

    def facts(self) -> dict[str, Any]:
        """Return the fold for a file."""
        return {"weight": self.weight, "confidence": self.confidence, "right": self.right, "squares": self.squares}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Calibration:
        """Rebuild a fold from its facts."""
        fold = cls()
        fold.weight, fold.confidence, fold.right = (list(facts[name]) for name in ("weight", "confidence", "right"))
        fold.squares = facts["squares"]
        return fold


class Outcomes:
    """Right, wrong and withheld answers, in the order their labels came."""

    def __init__(self) -> None:
        self.total = 0
        self.right = 0
        self.window: deque[int] = deque(maxlen=WINDOW)
        self.drifts = 0
        self.calibration = Calibration()
        self._detector: Any = None

    def add(self, right: bool, confidence: float | None = None) -> None:
        """Count one answer; `confidence` is what it stated, if it did."""
        self._append(RIGHT if right else WRONG)
        if confidence is not None:
            self.calibration.add(confidence, right)

    def withhold(self) -> None:
        """Count an abstention: an answer that was not right."""
        self._append(WITHHELD)

    def _append(self, outcome: int) -> None:
        self.total += 1
        self.right += outcome == RIGHT
        self.window.append(outcome)
        if self._detect(outcome):
            self.drifts += 1

    def _detect(self, outcome: int) -> bool:
        if self._detector is None:
            from river.drift import ADWIN  # 2 s: only a process that has outcomes pays

            self._detector = ADWIN()  # type: ignore[no-untyped-call]
            for earlier in list(self.window)[:-1]:
                self._detector.update(int(earlier != RIGHT))
        self._detector.update(int(outcome != RIGHT))
        return bool(self._detector.drift_detected)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers over the window, None before the first outcome."""
        return self.window.count(RIGHT) / len(self.window) if self.window else None

    @property
    def coverage(self) -> float | None:
        """Share of the window that was answered, None before the first outcome."""
        return 1.0 - self.window.count(WITHHELD) / len(self.window) if self.window else None

    @property
    def error(self) -> float | None:
        """Share of wrong ones among the window's answers that were given, None where none was."""
        wrong, right = self.window.count(WRONG), self.window.count(RIGHT)
        return wrong / (wrong + right) if wrong + right else None

    def facts(self) -> dict[str, Any]:
        """Return the fold for a file."""
        return {"total": self.total, "right": self.right, "drifts": self.drifts, "window": "".join(map(str, self.window)),
                "calibration": self.calibration.facts()}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Outcomes:
        """Rebuild a fold from its facts."""
        outcomes = cls()
        outcomes.total, outcomes.right, outcomes.drifts = facts["total"], facts["right"], facts["drifts"]
        outcomes.window.extend(int(c) for c in facts["window"])
        if "calibration" in facts:  # a version from before it was counted has none
            outcomes.calibration = Calibration.of(facts["calibration"])
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
                  given: Mapping[int, Said], written: AbstractSet[str] = frozenset()) -> None:
    """Count what events were answered with at the time (`given`, by event) against the labels that came.

    Of several heads each is judged by the confidence that the answer stated, which is that of the least certain one. Texts that
    heads in `written` have are no labels to count by.
    """
    events: dict[tuple[int, int, str], bool | None] = {}  # a text whose words are tagged is right where each of them is
    for row in rows:
        if row.event in given and row.head in given[row.event].labels:
            answer = given[row.event].to(row)
            right = answer == row.target
            one = row.event, row.born, row.head
            events[one] = None if answer is None else events.get(one, True) and right
            if row.head in written:
                continue
            tally = per_label.setdefault(row.target, [0, 0])
            tally[0], tally[1] = tally[0] + right, tally[1] + 1
    for (event, _, _), answered in events.items():
        if answered is None:
            prequential.withhold()
        else:
            prequential.add(answered, given[event].confidence)


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
