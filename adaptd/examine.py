"""Examine: what labels tell before they are learned.

What was answered at the time, what would have been answered now (trust, temperature, limits and accuracy are learned from that),
whether the model of today would have been right, and who contradicts whom. Where: in a domain's learner, in front of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from adaptd.config import Quarantine
from adaptd.metrics import count_answers
from adaptd.model.change import spoke
from adaptd.model.decoder import Opinions, opine
from adaptd.model.dissent import dissent
from adaptd.model.snapshot import HeadSnapshot, Snapshot
from adaptd.model.upper import Upper
from adaptd.quarantine import Dissent, Finding, together
from adaptd.records import Learned, Row, Said
from adaptd.rows import first_labels
from adaptd.state import State
from adaptd.tested import Kept, Tested
from adaptd.weak import is_weak

T = TypeVar("T")
RecordTested = Callable[[Sequence[Tested]], Future[None]]
TunedVectors = Callable[[Upper, Sequence[int]], Tensor]  # tuned upper blocks, event seqs -> [n, width]
Answers = Callable[[dict[int, int]], dict[int, Said]]  # {event: its label's seq} -> the answer before
Incumbent = Callable[[dict[int, int]], dict[int, dict[str, str | None]]]  # the same, of the model in production today
Given = Mapping[int, Said]  # event -> answer

SEARCH = 1_000_000_000 / 256  # multiplications a row that testing may spend on retrieval: among many, a sample is tested


class Answering(Protocol):
    """What a learner swaps its snapshots into (`Inference`)."""

    def snapshot(self, domain: str) -> Snapshot:
        """Return what a domain answers with now."""
        ...

    def swap(self, domain: str, make: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Answer with what `make` returns from then on."""
        ...

    def between(self, run: Callable[[], T]) -> Future[T]:
        """Run something short while nobody is answered."""
        ...


def _kept_nowhere(tested: Sequence[Tested]) -> Future[None]:
    """Stand for a store, beside one."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


class Examiner:
    """Asks a domain's heads about labels that they have not learned yet, and folds what that tells into its state."""

    tuned: TunedVectors | None = None

    def __init__(self, domain: str, state: State, inference: Answering, answers: Answers, incumbent: Incumbent,
                 quarantine: Quarantine, suspect: Callable[[Finding | None], None]) -> None:
        self.state = state
        self.quarantine = quarantine
        self.kept = Kept()  # what the journal's tail told before a restart
        self.record: RecordTested = _kept_nowhere
        self.recorded: Future[None] | None = None
        self.on_tested: Callable[[Mapping[int, bool]], None] = lambda tested: None
        self._domain = domain
        self._inference = inference
        self.answers = answers
        self.incumbent = incumbent
        self._suspect = suspect
        self._credit: dict[str, float] = {}  # rows that testing may still take, per head

    def examine(self, entries: Sequence[Learned], vectors: dict[int, Tensor]) -> None:
        """Fold outcomes: what was answered at the time, what would have been answered now, and who contradicts whom."""
        if entries[0].seq > self.kept.through:  # the journal's tail is through
            self.state.begin_anew(self.kept.changes, entries[0].seq)
            self.kept = Kept()
        first = first_labels(entries)
        given = self.count(first)
        judging = {row.id for row in first}
        suspect = {row.id for entry in entries if not entry.admitted for row in entry.born
                   if not is_weak(row.source)} if self.quarantine.enabled else set()
        snapshot = self._inference.snapshot(self._domain)
        right: dict[int, bool] = {}
        fresh: list[Tested] = []
        for name, head in self.state.heads.items():
            if head.options.generates:
                continue
            frozen = snapshot.heads[name]
            mine = [row for entry in entries for row in entry.born if row.head == name and row.id in judging | suspect]
            if not mine:
                continue
            rows, judged = {row.id: row for row in mine}, []
            for told in self._told(name, mine, judging, suspect, vectors, frozen):
                self.state.begin_anew(self.kept.changes, rows[told.row].born)
                self._suspect(self.state.follow(rows[told.row], told, self.quarantine))
                if told.step is not None:
                    right[told.row] = told.step.right
                    judged.append(rows[told.row])
                if told.row not in self.kept.told:
                    fresh.append(told)
            self._try(name, judged, vectors, right, frozen)
        if fresh:
            self.recorded = self.record(fresh)
        self.compare(first, given, right)
        self.on_tested(right)

    def _told(self, name: str, rows: Sequence[Row], judging: AbstractSet[int], suspect: AbstractSet[int],
              vectors: Mapping[int, Tensor], frozen: HeadSnapshot) -> Iterator[Tested]:
        """Yield what rows of a head tell: first those that told it before a restart. Each is to be followed before the next."""
        before = [row for row in rows if row.born <= self.kept.through]
        yield from (self.kept.told[row.id] for row in before if row.id in self.kept.told)  # not all are sampled
        head, asked = self.state.heads[name], self._sample(rows[len(before):], name, frozen) if frozen.known.any() else []
        if not asked:
            return
        said, targets = self._opine(asked, vectors, frozen), [frozen.index_of(row.target) for row in asked]
        # most words are outside of spans; that they are answered so says nothing of the spans
        telling = [(place, row) for place, row in enumerate(asked) if (target := targets[place]) is None
                   or not frozen.is_outside(target) or int(said.pooled[place].argmax()) != target]
        doubts: dict[tuple[int, int], list[tuple[int, Dissent]]] = {}  # by event and birth: the words of a text are one label
        for place, row in telling:
            if row.id in suspect and (target := targets[place]) is not None and not head.options.unseen:
                doubts.setdefault((row.event, row.born), []).append(
                    (row.id, dissent(said, place, row, target, frozen, head.taught)))
        doubted = {some[0][0]: together([one for _, one in some]) for some in doubts.values()}
        for place, row in telling:
            judges = row.id in judging
            yield Tested(
                row=row.id, step=head.fold.step(said, place, targets[place], frozen) if judges else None,
                said=spoke(said, place, frozen) if judges else None, dissent=doubted.get(row.id))

    def _try(self, name: str, rows: Sequence[Row], vectors: Mapping[int, Tensor], right: Mapping[int, bool],
             frozen: HeadSnapshot) -> None:
        """Ask the champion before this one the same, on probation."""
        trial, head = self.state.trial, self.state.heads[name]
        if not rows or trial is None or (shadow := trial.shadows.get(name)) is None:
            return
        head.other_index(shadow.adapter)  # made anew it takes a second: not between two batches
        self._inference.between(partial(head.keep_up, shadow)).result()
        before = head.under(shadow, frozen)
        said = self._opine(rows, vectors, before)
        for place, row in enumerate(rows):
            trial.add(right[row.id], shadow.fold.update(said, place, before.index_of(row.target), before).right)

    def _opine(self, rows: Sequence[Row], vectors: Mapping[int, Tensor], frozen: HeadSnapshot) -> Opinions:
        """Ask a head about rows: also its tuned upper blocks, where it has some."""
        upper, tuned = frozen.adapter.upper, None
        if upper is not None and self.tuned is not None:
            tuned = self.tuned(upper, [row.event for row in rows])
        return opine(torch.stack([vectors[row.place] for row in rows]), frozen, tuned)

    def _sample(self, rows: Sequence[Row], name: str, head: HeadSnapshot) -> list[Row]:
        """Return the rows to test: all, or evenly spaced ones where retrieval among so many would cost more than it tells.

        What a block leaves of its share is carried over, so small blocks are sampled like large ones.
        """
        self._credit[name] = self._credit.get(name, 0.0) + len(rows) * min(1.0, SEARCH / max(1, len(head.keys) * head.keys.dim))
        count = min(len(rows), int(self._credit[name]))
        self._credit[name] -= count
        return [rows[i * len(rows) // count] for i in range(count)]

    def count(self, rows: Sequence[Row]) -> Given:
        """Fold what was answered at the time, and return it."""
        given = self.answers({row.event: row.born for row in rows})
        written = {name for name, head in self.state.heads.items() if head.options.generates}
        count_answers(self.state.prequential, self.state.per_label, rows, given, written)
        return given

    def compare(self, rows: Sequence[Row], given: Given, tested: Mapping[int, bool]) -> None:
        """Fold our answers beside the incumbent's: what was answered at the time, else what would have been."""
        other = self.incumbent({row.event: row.born for row in rows})
        for row in rows:
            if row.event in other and row.head in other[row.event] and not self.state.tags(row.head):  # its spans: unknown
                said = given.get(row.event)
                ours = said.to(row) == row.target if said and row.head in said.labels else tested.get(row.id)
                if ours is not None:
                    self.state.incumbent.add(ours, other[row.event][row.head] == row.target)
