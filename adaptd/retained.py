"""Which learned rows stay retrievable: the fold that evicts, one row at a time in journal order.

Where: under the learner's heads, which ask it after each row that they enter. Pure: numbers in, row ids out. The choice
rests on what is retrievable at that row and on the policy alone: no clock, no random state, and dot products that are
exact in any order, as vectors are put on a grid first. So it does not matter how rows were grouped, and whoever begins
from the same retrievable rows evicts the same ones. Ties and samples are drawn by a row's `priority`, a keyed hash of
its content: no client can pick what is kept.

A class's newest rows never go, so that a change within the class is seen, and no class goes whole while there is room for
one row of each.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from adaptd.interfaces import MemoryPolicy

LOOK = 64  # rows that a policy chooses among
AT_ONCE = 32  # rows that may go for one that comes: a capacity that was lowered is reached over the next labels
GRID = 2048.0  # steps per unit of a vector: products of two such numbers add up exactly
ROW = (1 << 63) - 1
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How many rows of a head may be retrievable, and who goes first. 0 = as many as come."""

    capacity: int
    per_class: int
    policy: MemoryPolicy


class Source(Protocol):
    """What the fold asks its owner about rows and classes."""

    def vectors_of(self, rows: Sequence[int]) -> Floats:
        """Return the vectors [n, dim] of retrievable rows."""
        ...

    def order_of(self, rows: Sequence[int]) -> Ints:
        """Return how many rows had been learned before each."""
        ...

    def target_of(self, row: int) -> int:
        """Return a row's class."""
        ...

    def mean_of(self, target: int) -> Floats:
        """Return the mean over all alive rows of a class, evicted ones too."""
        ...


def gridded(vectors: npt.NDArray[np.floating]) -> Floats:
    """Put vectors on the grid."""
    rounded: Floats = np.rint(vectors.astype(np.float32) * np.float32(GRID)).astype(np.float64)
    return rounded / GRID


def priority(content: bytes) -> int:
    """Return a row's place in the draw, 64 bits of its content's HMAC; not those that choose the holdout."""
    return int.from_bytes(content[8:16], "big")


class Candidates:
    """The rows of one class (or of all, for a policy that does not go by class) among which one is to go."""

    def __init__(self, source: Source, keys: Sequence[int], now: int, kept: Callable[[], tuple[Floats, int]],
                 target: int) -> None:
        self._source, self._kept, self._target = source, kept, target
        self.rows = [ROW - (key & ROW) for key in keys]
        self.priority = np.array([key >> 63 for key in keys], dtype=np.uint64)
        self.order = source.order_of(self.rows)
        self.now = now  # rows learned so far

    @cached_property
    def vectors(self) -> Floats:
        """Their vectors [n, dim], on the grid."""
        return gridded(self._source.vectors_of(self.rows))

    @property
    def mean(self) -> Floats:
        """The mean over all alive rows of the class, evicted ones too [dim]."""
        return self._source.mean_of(self._target)

    @property
    def kept(self) -> tuple[Floats, int]:
        """The sum over the retrievable rows of the class [dim], and how many they are."""
        return self._kept()


class Retained:
    """The retrievable rows of one head, by class in the order of birth, and by priority."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lines: dict[int, list[int]] = {}  # class -> rows, oldest first
        self._ranked: dict[int, list[int]] = {}  # class -> keys, lowest priority first
        self._all: list[int] = []  # keys of all classes
        self._sums: dict[int, Floats] = {}  # class -> sum of its rows' vectors, where a policy asked for it

    def __len__(self) -> int:
        return len(self._all)

    def fill(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Begin with these rows: (row, class, priority) in the order of birth."""
        for row, target, rank in rows:
            self._lines.setdefault(target, []).append(row)
            self._ranked.setdefault(target, []).append(_key(row, rank))
        for ranked in self._ranked.values():
            ranked.sort()
        self._all = sorted(chain.from_iterable(self._ranked.values()))

    def add(self, row: int, target: int, rank: int) -> None:
        """Take a row in."""
        key = _key(row, rank)
        insort(self._lines.setdefault(target, []), row)
        insort(self._ranked.setdefault(target, []), key)
        insort(self._all, key)
        if target in self._sums:
            self._sums[target] = self._sums[target] + gridded(self._source.vectors_of([row]))[0]

    def remove(self, row: int, target: int, rank: int) -> None:
        """Let a row go, evicted or dead."""
        key = _key(row, rank)
        if target in self._sums:
            self._sums[target] = self._sums[target] - gridded(self._source.vectors_of([row]))[0]
        for ordered, value in ((self._lines[target], row), (self._ranked[target], key), (self._all, key)):
            del ordered[bisect_left(ordered, value)]
        if not self._lines[target]:
            del self._lines[target], self._ranked[target]
            self._sums.pop(target, None)

    def excess(self, bound: Bound, row: int, target: int, rank: int, now: int) -> Iterator[int]:
        """Yield what goes for a row that has just been added; the owner removes each before it asks for the next."""
        for _ in range(AT_ONCE):
            if bound.per_class and len(self._lines.get(target, ())) > bound.per_class:
                yield self._choose(bound, target, _key(row, rank), now)
            elif bound.capacity and len(self) > bound.capacity:
                yield self._over(bound, _key(row, rank), now)
            else:
                return

    def _over(self, bound: Bound, cause: int, now: int) -> int:
        """Choose where the head as a whole has too many."""
        largest = max(self._lines, key=lambda target: (len(self._lines[target]), -target))
        if len(self._lines[largest]) == 1:  # more classes than room: the one that has not come for longest
            return min(line[0] for line in self._lines.values())
        return self._choose(bound, largest if bound.policy.by_class else None, cause, now)

    def _choose(self, bound: Bound, target: int | None, cause: int, now: int) -> int:
        ranked = self._all if target is None else self._ranked[target]
        safe = self._safe(bound)

        def free(key: int) -> bool:
            return not self._is_safe(ROW - (key & ROW), target, safe)

        top = next(filter(free, reversed(ranked)))
        at = bisect_left(ranked, cause)  # a place that the new row's priority draws: another sample each time
        around = chain(islice(ranked, at, None), islice(ranked, at))
        keys = sorted({top, *islice(filter(free, around), LOOK - 1)})
        place = 0 if target is None else target
        found = Candidates(self._source, keys, now, lambda: self._kept(place), place)
        return found.rows[bound.policy.choose(found)]

    def _safe(self, bound: Bound) -> int:
        """Return how many of its newest rows a class keeps: as many as the policy says, up to half of its share."""
        shares = [bound.per_class] * bool(bound.per_class) + [bound.capacity // len(self._lines)] * bool(bound.capacity)
        return max(1, min(bound.policy.newest, min(shares) // 2))

    def _is_safe(self, row: int, target: int | None, safe: int) -> bool:
        line = self._lines[self._source.target_of(row) if target is None else target]
        return row >= line[-safe] if len(line) > safe else True

    def _kept(self, target: int) -> tuple[Floats, int]:
        line = self._lines[target]
        if target not in self._sums:
            self._sums[target] = gridded(self._source.vectors_of(line)).sum(0)  # exact: a multiple of the grid
        return self._sums[target], len(line)


def _key(row: int, rank: int) -> int:
    """Order by priority; of equal contents the newest comes first, so that the oldest goes."""
    return rank << 63 | (ROW - row)
