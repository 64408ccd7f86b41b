"""Beside: journal entries taught to a state that answers nobody, to see what would come of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from adaptd.config import Quarantine
from adaptd.learn import Aside, Learner, Record, Vectors
from adaptd.records import Learned
from adaptd.state import State

TOGETHER = 4  # labels that are taken to have come together: which did is not in the journal


def evictions(state: State, entries: Sequence[Learned], vectors: Vectors, record: Record, block: int) -> None:
    """Have what memory evicts recorded; nothing is tested or solved."""
    aside = _learner(state, vectors, block)
    aside.record = record
    for start in range(0, len(entries), block):
        some = entries[start:start + block]
        aside.apply(some, vectors(sorted({row.place for entry in some for row in entry.born})))


def outcomes(state: State, blocks: Iterable[Sequence[Learned]], vectors: Vectors) -> Iterator[Mapping[int, bool]]:
    """Yield by block which rows would have been answered right before they were learned; after each the ridge is solved."""
    tested: dict[int, bool] = {}
    aside = _learner(state, vectors, TOGETHER)
    aside.examiner.on_tested = tested.update
    aside.solve()
    for block in blocks:
        aside.go_through(block, TOGETHER)
        yield dict(tested)
        tested.clear()


def _learner(state: State, vectors: Vectors, block: int) -> Learner:
    """Return a learner that knows no answers, holds no source and swaps in nothing."""
    return Learner("", state, Aside(), vectors, lambda born: {}, block=block, solve_after_s=0.0,
                   quarantine=Quarantine(enabled=False))
