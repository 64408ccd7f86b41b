"""Refold: make again what the store does not have: what a domain's memory has evicted, and the folds of outcomes.

Where: above restore and learn. Evictions are recorded behind the labels that they went for, so a crash may have lost the
last ones; and a forget takes back all that came after what was forgotten, as they rested on it. Branch by branch, in the
order in which they grew, heads of its own learn the journal again with the limits that held at the time, from the state
at which the record ends. Without features and sums: only who stays retrievable is asked.

Folds (trust, calibration, accuracy) cannot be subtracted from, and a base may have none that is for its rows: then the
journal's outcomes are folded from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from adaptd import beside, bounds, plugins, registry, restore
from adaptd import tables as t
from adaptd.bounds import Bounds, Limits
from adaptd.config import Quarantine
from adaptd.interfaces import MemoryPolicy
from adaptd.learn import Learner
from adaptd.model.network import Head
from adaptd.records import Learned
from adaptd.retained import Bound
from adaptd.rows import lineage, replay
from adaptd.state import State
from adaptd.vectors import Vectors

TESTED = 2048  # newest labels whose answers are asked for again; what is older would count a quarter at most


class Rules:
    """What bounds a row that is born at a seq: a domain's limits, with their policies made."""

    def __init__(self, given: Bounds, kinds: Mapping[str, type]) -> None:
        self._given = given
        self._kinds = kinds
        self._made: dict[int, Bound | None] = {}

    def __call__(self, seq: int) -> Bound | None:
        """Return it; None where nothing does."""
        limits = self._given.at(seq)
        if id(limits) not in self._made:
            self._made[id(limits)] = made(limits, self._kinds)
        return self._made[id(limits)]


def made(limits: Limits, kinds: Mapping[str, type]) -> Bound | None:
    """Make a policy of limits.

    Raises
    ------
    BadConfig
        There is no such policy, or it has no such option.
    """
    if not limits["capacity"] and not limits["per_class"]:
        return None
    kind: type[MemoryPolicy] = plugins.pick(kinds, limits["policy"], "memory.policy")
    policy = plugins.build(kind, limits["options"], "memory.options")
    return Bound(capacity=limits["capacity"], per_class=limits["per_class"], policy=policy)


@dataclass(frozen=True, kw_only=True)
class Refold:
    """What a domain needs to fold its evictions again."""

    domain: int
    reader: Engine
    vectors: Vectors
    heads: Callable[[], dict[str, Head]]  # empty ones, with the domain's rules
    record: Callable[[int, Sequence[tuple[int, int]]], Future[None]]
    block: int

    def up_to(self, seq: int) -> None:
        """Complete the record up to a seq of the live branch, and wholly in the branches before it."""
        with self.reader.connect() as connection:
            given = bounds.read(connection, self.domain)
        if given.through >= seq or not given.bound_after(given.through):
            return
        if self._may_be_full(given):
            for branch, start, end in self._sections(seq):
                if end > given.through:
                    self._section(branch, max(start, given.through), end)
        self.record(seq, []).result()

    def outcomes_at(self, base: restore.Base, learner: Learner) -> None:
        """Have the folds at a base made again that has none of its own; the journal's tail is to be delivered behind this."""
        if base.seq and restore.folds_at(base) is None:
            with self.reader.connect() as connection:
                entries = replay(connection, self.domain, base.intervals, -1)
            learner.call(lambda: fold_outcomes(learner, entries))

    def _may_be_full(self, given: Bounds) -> bool:
        """Say whether any head has ever learned more rows than a limit allows."""
        query = select(func.count()).where(t.learned.c.domain == self.domain).group_by(t.learned.c.head)
        with self.reader.connect() as connection:
            most = max(connection.execute(query).scalars(), default=0)
        return any(limits["per_class"] or 0 < limits["capacity"] < most for _, limits in given.limits)

    def _sections(self, seq: int) -> Iterator[tuple[int, int, int]]:
        """Yield every branch with the seqs between which it grew, oldest first."""
        query = select(t.branch.c.id, t.branch.c.start).where(t.branch.c.domain == self.domain).order_by(t.branch.c.id)
        with self.reader.connect() as connection:
            found: Sequence[Any] = connection.execute(query).all()
        for row, end in zip(found, [*(r.start for r in found[1:]), seq], strict=True):
            yield row.id, row.start, end

    def _section(self, branch: int, begin: int, end: int) -> None:
        with self.reader.connect() as connection:
            entries = replay(connection, self.domain, lineage(connection, branch, end), begin)
            if not entries:
                return
            version = registry.version(connection, registry.live(connection, self.domain).version)
            base = restore.Base(version=version, intervals=lineage(connection, branch, begin), seq=begin, own=False)
            state: State = restore.load_state(connection, self.domain, base, {}, self.heads(), self.vectors, Quarantine(),
                                              unreported)
        beside.evictions(state, entries, self.vectors, self.record, self.block)


def unreported(code: str, message: str, hint: str) -> None:
    """For who makes a state to look at it: what is damaged is told by the daemon that serves it."""


def fold_outcomes(learner: Learner, entries: Sequence[Learned]) -> None:
    """Make the folds of a learner's state again from all that the journal taught up to it; in the learner's thread."""
    state = learner.state
    other = State(version=state.version, seq=0, heads={name: head_beside(head) for name, head in state.heads.items()})
    learner.replay(other, entries, TESTED)
    for name, head in state.heads.items():
        head.fold = other.heads[name].fold
    state.prequential, state.progressive, state.per_label = other.prequential, other.progressive, other.per_label
    state.incumbent, state.suspicion, state.drift = other.incumbent, other.suspicion, other.drift


def head_beside(head: Head) -> Head:
    """Return an empty head with the same limits, labels and adapter."""
    empty = Head(head.options, head.features, adapter=head.adapter)
    empty.bounded.rules = head.bounded.rules
    empty.bounded.read_from(head.bounded.gone.fetch)
    empty.set_labels(head.labels)
    empty.clear_answers()
    return empty
