"""Reading: what probabilities over targets say, for each kind of head (`adaptd.heads`).

All kinds have the same state, sums and memory over targets; the ridge's scores, the attention's weights and the class means are
linear in the targets, so what is read off their sum over sets is what a model of each single label would say of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from adaptd.heads import Classify, Head, Labels, Ordinal, Regress, Spans, as_target, named
from adaptd.model.attention import Floats, Ints

TOP = 5  # scores that an answer names
SELDOM = 1e-6  # a number below that chance has no rows any more
LIKELY = 0.5  # from which chance on a label is among several
UNTAUGHT = -1  # the place of a set that nobody taught


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One answer: the target, how likely it is right, and what is likely."""

    target: str
    confidence: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Reading:
    """Reads one label: the likeliest."""

    kind: Head
    targets: tuple[str, ...]  # by class

    def answered(self, chances: Floats) -> tuple[int, float]:
        """Return the class that chances [C] stand for, and how likely it is right."""
        best = int(chances.argmax())
        return best, float(chances[best])

    def decisions(self, chances: Floats, known: int) -> list[Decision]:
        """Return the answers that chances [n, C] stand for; so many classes have rows."""
        best = np.argsort(-chances, axis=1, kind="stable")[:, : min(TOP, known)]
        top = np.take_along_axis(chances, best, 1).tolist()
        return [self._decision(row, {self.targets[c]: p for c, p in zip(some, chance, strict=True)})
                for row, some, chance in zip(chances, best.tolist(), top, strict=True)]

    def _decision(self, chances: Floats, scores: dict[str, float]) -> Decision:
        best, confidence = self.answered(chances)
        return Decision(target=self.targets[best], confidence=confidence, scores=scores)


@dataclass(frozen=True)
class Ordered(Reading):
    """Reads a place in an order: of classes the median, which errs by the fewest; of numbers the one nearest to the mean."""

    values: Floats = field(init=False)  # of the classes [C]
    order: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Order the classes."""
        assert isinstance(self.kind, Ordinal | Regress)
        values = np.array([self.kind.value(target) for target in self.targets], np.float32)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "order", np.argsort(values, kind="stable"))

    def answered(self, chances: Floats) -> tuple[int, float]:
        """Return the class in the middle of chances [C], and how likely it is right."""
        counts = np.where(np.isnan(self.values), np.float32(0), chances)
        if isinstance(self.kind, Regress):
            mean = counts @ np.nan_to_num(self.values) / max(float(counts.sum()), 1e-9)
            best = int(np.where(counts > SELDOM, abs(self.values - mean), np.inf).argmin())
        else:
            sums = np.cumsum(counts[self.order])
            best = int(self.order[int(np.searchsorted(sums, sums[-1] / 2))])
        return best, float(chances[best])


@dataclass(frozen=True)
class Sets(Reading):
    """Reads several labels: each whose chance over all sets that have it is at least a half; where none is, the likeliest set."""

    names: tuple[str, ...] = field(init=False)  # sorted [L]
    has: Floats = field(init=False)  # which set has which label [C, L]
    places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Take the sets apart."""
        sets = [named(target) for target in self.targets]
        names = tuple(sorted({name for one in sets for name in one}))
        place = {name: at for at, name in enumerate(names)}
        has = np.zeros((len(sets), len(names)), np.float32)
        for row, one in enumerate(sets):
            has[row, [place[name] for name in one]] = 1.0
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "has", has)
        object.__setattr__(self, "places", {target: at for at, target in enumerate(self.targets)})

    def answered(self, chances: Floats) -> tuple[int, float]:
        """Return the set that chances [C] stand for (UNTAUGHT where it is none of them), and how likely it is right."""
        target, confidence = self._set(chances, chances @ self.has)
        return self.places.get(target, UNTAUGHT), confidence

    def decisions(self, chances: Floats, known: int) -> list[Decision]:
        """Return the answers that chances [n, C] stand for: a score is one label's."""
        return [self._read(*both) for both in zip(chances, np.minimum(chances @ self.has, np.float32(1.0)), strict=True)]

    def _read(self, chances: Floats, single: Floats) -> Decision:
        target, confidence = self._set(chances, single)
        best = np.argsort(-single, kind="stable").tolist()
        shown = [at for rank, at in enumerate(best) if rank < TOP or single[at] >= LIKELY]
        return Decision(target=target, confidence=confidence, scores={self.names[at]: float(single[at]) for at in shown})

    def _set(self, chances: Floats, single: Floats) -> tuple[str, float]:
        """Return the labels that apply, and how likely just these do; of a set that nobody taught, if each is by itself."""
        likely = single >= LIKELY
        best = int(chances.argmax())
        if not likely.any():
            return self.targets[best], float(chances[best])
        target = str(as_target([self.names[at] for at in np.flatnonzero(likely).tolist()]))
        if (place := self.places.get(target)) is not None:
            return target, float(chances[place])
        return target, float(np.prod(np.where(likely, single, 1 - np.minimum(single, 1))))


@lru_cache(maxsize=64)
def reading(kind: Head, targets: tuple[str, ...]) -> Reading:
    """Return what reads a head's chances; made once for the same targets."""
    made: type[Reading] = Reading if isinstance(kind, Classify | Spans) else Sets if isinstance(kind, Labels) else Ordered
    return made(kind, targets)


def nearer(kind: Head, one: str, other: str, truth: str) -> int:
    """Say which of two answers of a head with an order is nearer to the truth: 1, -1, or 0 where neither is."""
    assert isinstance(kind, Ordinal | Regress)
    far = [abs(kind.value(target) - kind.value(truth)) for target in (one, other)]
    return int(far[0] < far[1]) - int(far[1] < far[0])

