"""When to abstain: three limits that are read off the newest outcomes, in the order of the journal.

Every event with a label is answered before its label is learned. What was said of the newest 1,000 is kept: confidence,
right or wrong, whether the true class was known, and how well the event fitted what was remembered. Of these

- selective risk (`abstain_error`; Geifman and El-Yaniv, 2017): the lowest confidence from which on answers err at most at
  the rate that is asked for, with 90 % confidence, by an exact binomial bound (Clopper and Pearson, 1934);
- a conformal p-value (`out_of_scope`; Vovk et al., 2005; Bates et al., 2023): how many events of known classes fitted no
  better; of those that come like them at most the rate that is asked for is taken for out of scope;
- the same turned round (`unseen`, of heads that reply, where the similarity of the nearest is the fit): how many events of a
  class that was new fitted no worse; of events whose class nobody has taught at most the rate that is asked for is answered.

They hold for events that come like those in the window; as it moves on, so do the limits. Pure numbers, no model.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor

WINDOW = 1000  # outcomes
DOUBT = 0.1  # the stated error rate holds with 90 % confidence
ALL, NONE = 0.0, math.inf  # a limit of confidence that lets through every answer, or none
OTHER = 1e9  # the fit of an event that was seen through another adapter: it passes
OLDER = 200  # events of new classes that are kept beyond the window: in a stream that is known they are rare
LEFT, BEFORE = -1.0, -2.0  # `known` of those, and of those that were seen through another adapter
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Below which an answer is withheld, and the rates that the limits are for; a rate of 0 is off."""

    abstain_error: float = 0.0
    out_of_scope: float = 0.0
    unseen: float = 0.0
    confidence: float = ALL
    fit: float = -math.inf
    new: float = -math.inf  # the fit from which on an event is taken for one of a known class

    def facts(self) -> dict[str, dict[str, float | None]]:
        """Return rate and limit of each that is on; a limit of None is not known yet."""
        rows = (("abstain_error", self.abstain_error, self.confidence), ("out_of_scope", self.out_of_scope, self.fit),
                ("unseen", self.unseen, self.new))
        return {name: {"rate": rate, "limit": limit if math.isfinite(limit) else None} for name, rate, limit in rows if rate}

    def reason(self, confidence: float, fit: float) -> str | None:
        """Say why an answer is withheld; None: it is not."""
        if fit < self.fit:
            return (f"out of scope: it fits what was learned less ({fit:.3f}) than all but {self.out_of_scope:.3g} of the events"
                    f" of known classes (limit {self.fit:.3f})")
        if fit < self.new:
            return self._strange(fit)
        if confidence >= self.confidence:
            return None
        if self.confidence == NONE:
            return f"no confidence is known yet from which on at most {self.abstain_error:.3g} of the answers are wrong"
        return (f"confidence {confidence:.3f} is below {self.confidence:.3f}, from which on at most {self.abstain_error:.3g}"
                " of the answers are wrong")

    def _strange(self, fit: float) -> str:
        if self.new == NONE:
            return (f"too little is remembered to tell what is near: that takes {math.ceil(1 / self.unseen)} events that"
                    " came with something new")
        return (f"nothing near is remembered: the nearest is similar by {fit:.3f}, and of the events whose answer nobody had"
                f" given yet more than a share of {self.unseen:.3g} came as near (limit {self.new:.3f})")


class Recent:
    """The newest outcomes, and some older ones of new classes. Deterministic; stored with the folds."""

    def __init__(self, rows: Iterable[Sequence[float]] = (), measure: str = "") -> None:
        kept = list(rows)
        self._rows: deque[Sequence[float]] = deque((row for row in kept if row[2] >= 0), maxlen=WINDOW)
        self._older: deque[Sequence[float]] = deque((row for row in kept if row[2] < 0), maxlen=OLDER)
        self.measure = measure  # the adapter that similarities were seen through

    def measure_by(self, measure: str) -> None:
        """Go on under an adapter; the fits that were seen through another one cannot be compared with what comes."""
        if measure != self.measure:
            self.measure = measure
            self._older.extend((c, right, LEFT, fit) for c, right, known, fit in self._rows if not known and fit < OTHER)
            self._older = deque(((c, right, BEFORE, fit) for c, right, _, fit in self._older), maxlen=OLDER)
            self._rows = deque(((c, right, False, OTHER) for c, right, _, _ in self._rows), maxlen=WINDOW)

    def add(self, confidence: float, right: bool, known: bool, fit: float) -> None:
        """Take in what was said of an event whose label has come; `known`: its class was."""
        if len(self._rows) == WINDOW and not self._rows[0][2] and self._rows[0][3] < OTHER:
            self._older.append((self._rows[0][0], self._rows[0][1], LEFT, self._rows[0][3]))
        self._rows.append((confidence, right, known, fit))

    def limits(self, abstain_error: float, out_of_scope: float, unseen: float = 0.0) -> Limits:
        """Return the limits that keep these rates; the risk is that of the answers that are in scope."""
        if not (abstain_error or out_of_scope or unseen):
            return Limits()
        confidence, right, known, fit = np.array(self._rows, dtype=np.float64).reshape(-1, 4).T
        least = fit_limit(fit[known > 0], out_of_scope) if out_of_scope else -math.inf
        new = self._near(unseen) if unseen else -math.inf
        asked = (fit >= least) & (fit >= new)
        lowest = risk_limit(confidence[asked], right[asked] > 0, abstain_error) if abstain_error else ALL
        return Limits(abstain_error=abstain_error, out_of_scope=out_of_scope, unseen=unseen, confidence=lowest,
                      fit=least, new=new)

    def _near(self, rate: float) -> float:
        """Return the limit of events of new classes; where those seen through this adapter are too few, by all that are kept."""
        fits = [(known, fit) for _, _, known, fit in (*self._older, *self._rows) if known <= 0 and fit < OTHER]
        limit = near_limit(np.array([fit for known, fit in fits if known > BEFORE]), rate)
        return limit if limit < NONE else near_limit(np.array([fit for _, fit in fits]), rate)

    def tensor(self) -> Tensor:
        """Return the fold [n, 4] for a file."""
        return torch.tensor([*self._older, *self._rows], dtype=torch.float64).reshape(-1, 4)


def risk_limit(confidence: Doubles, right: Flags, error: float) -> float:
    """Return the lowest confidence from which on at most `error` of the answers are wrong, NONE where none is known to do.

    Two walks from the most confident outwards share the doubt: from as few as can show the rate at all, and from half of
    them, where a single early error does not end it.

    >>> risk_limit(np.linspace(0.5, 1.0, 1000), np.linspace(0.5, 1.0, 1000) > 0.6, 0.05) < 0.65
    True
    >>> risk_limit(np.ones(10), np.ones(10) > 0, 0.05)
    inf
    """
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], np.cumsum(~right[order], dtype=np.int64)
    few = math.ceil(math.log(DOUBT / 2) / math.log1p(-error))
    return min(_walk(sure, wrong, start, error) for start in (few, max(few, len(sure) // 2)))


def _walk(sure: Doubles, wrong: npt.NDArray[np.integer[Any]], given: int, error: float) -> float:
    """Take in a tenth more while the bound holds; return the last confidence for which it did.

    The order is fixed before an outcome is looked at, so all steps together may be wrong with the doubt of one (fixed
    sequence; Angelopoulos et al., 2021).
    """
    limit = NONE
    while given <= len(sure):
        given = int(np.searchsorted(-sure, -sure[given - 1], side="right"))  # equal confidence, equal fate
        if upper(int(wrong[given - 1]), given, DOUBT / 2) > error:
            break
        limit = float(sure[given - 1])
        given = given + 1 if given == len(sure) else min(len(sure), math.ceil(1.1 * given))
    return limit


def upper(wrong: int, given: int, doubt: float) -> float:
    """Return the most that the rate of `wrong` among `given` may be, but for the doubt (Clopper and Pearson)."""
    return 1.0 if wrong >= given else float(betaincinv(wrong + 1, given - wrong, 1.0 - doubt))


def fit_limit(fit: Doubles, rate: float) -> float:
    """Return the fit below which a p-value is at most `rate`; -inf while events are too few for one to be.

    ``p = (1 + events that fitted no better) / (1 + events)``

    >>> fit_limit(np.arange(39.0), 0.05), fit_limit(np.arange(18.0), 0.05)
    (1.0, -inf)
    """
    place = math.floor(rate * (len(fit) + 1) + 1e-9) - 1
    return -math.inf if place < 0 else float(np.sort(fit)[place])


def near_limit(fit: Doubles, rate: float) -> float:
    """Return the fit from which on a p-value of events of new classes is at most `rate`; NONE while they are too few.

    >>> near_limit(np.arange(19.0), 0.1), near_limit(np.arange(8.0), 0.1)
    (17.0, inf)
    """
    return -fit_limit(-fit, rate) if math.floor(rate * (len(fit) + 1) + 1e-9) else NONE
