"""Learn: the fast path. One thread a domain takes labels in journal order and teaches memory, means and ridge.

For each block: vectors (stored ones, else encoded now, once), test-then-learn (trust, temperature, limits, metrics), then
memory and means, then a new snapshot is swapped in: from here on the label is used, and whoever waits for it goes
on. The ridge is solved behind that, a second late at most; however many rows that is, they share one solution.
`Learner.call` waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from adaptd.config import Quarantine
from adaptd.drift import Change
from adaptd.errors import AdaptdError, NotReady
from adaptd.examine import Answering, Answers, Examiner, Incumbent
from adaptd.fair import Rate
from adaptd.futures import fail, settle
from adaptd.model.change import changed
from adaptd.model.memory import NewRows
from adaptd.model.snapshot import Snapshot
from adaptd.quarantine import Finding
from adaptd.records import Learned, Row
from adaptd.rows import first_labels
from adaptd.stages import Told, Traces, traces, unheard
from adaptd.state import State
from adaptd.tested import Kept

log = logging.getLogger(__name__)
T = TypeVar("T")
Record = Callable[[int, Sequence[tuple[int, int]]], Future[None]]  # evictions (row, seq), all of them up to a seq
Vectors = Callable[[Sequence[int]], dict[int, Tensor]]  # places -> stored or freshly encoded vectors



@dataclass
class _Call:
    run: Callable[[], Any]
    trailing: bool = False  # may run while the sums are made again, which takes long: the ridge that answers trails
    done: Future[Any] = field(default_factory=Future)


class Aside:
    """Holds the snapshots of a state that nobody is answered from."""

    _held: Snapshot

    def snapshot(self, domain: str) -> Snapshot:
        """Return what was swapped in last."""
        return self._held

    def swap(self, domain: str, make: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Hold what `make` returns, at once."""
        self._held = make()
        return self.between(lambda: self._held)

    def between(self, run: Callable[[], T]) -> Future[T]:
        """Run something at once: nobody is answered."""
        done: Future[T] = Future()
        done.set_result(run())
        return done


def _unrecorded(seq: int, evicted: Sequence[tuple[int, int]]) -> Future[None]:
    """Stand for a store, beside one."""
    done: Future[None] = Future()
    done.set_result(None)
    return done


class Learner:
    """The thread of one domain."""

    on_published: Callable[[Snapshot], None] | None = None

    def __init__(self, domain: str, state: State, inference: Answering, vectors: Vectors, answers: Answers, *,
                 block: int, solve_after_s: float, quarantine: Quarantine, incumbent: Incumbent = lambda born: {}) -> None:
        self.domain = domain
        self.state = state
        self._inference = inference
        self._vectors = vectors
        self.examiner = Examiner(domain, state, inference, answers, incumbent, quarantine, self._suspect)
        self._block = block
        self._solve_after_s = solve_after_s
        self._queue: queue.SimpleQueue[Learned | _Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, Future[None]]] = []
        self._pending: list[int] = []  # seqs queued or in work, ascending
        self._dirty_since: float | None = None
        self._behind = False  # the sums follow a restore, in chunks
        self._made = 0  # rows that they have followed so far
        self._aside: dict[str, tuple[int, int]] = {}  # source -> what was born from .. to is not answered with
        self._out_at = 0  # the seq at which the journal has taken all of that out,
        self._deferred: deque[_Call | None] = deque()  # and what waits for it: no version holds half of it
        self.forgotten: AbstractSet[int] = frozenset()  # events: what is queued of them is not learned any more
        self.on_learned: Callable[[int], None] = lambda rows: None
        # the seqs at which it was set aside, and at which what that brought back is learned
        self.on_finding: Callable[[Finding], tuple[int, int] | None] = lambda found: None
        self.follows_changes = True
        self.on_change: Callable[[Change], None] = lambda found: None
        self.on_caught_up: Callable[[int], None] = lambda rows: None  # that many rows' sums had to be made after a restore
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        self.record: Record = _unrecorded
        self.told: Told = unheard
        self._traces: dict[int, Traces] = {}  # of queued entries whose requests are traced, by seq
        self._recorded: Future[None] | None = None
        self._none_new = False  # that nothing was evicted lately, which waits for the next barrier
        self.failed: BaseException | None = None
        self.rate = Rate()  # of labels
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"learner-{domain}", daemon=True)

    def start(self) -> None:
        """Publish the state and start learning."""
        self.publish()
        self._thread.start()

    def close(self) -> None:
        """Learn what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    # -- called from other threads ----------------------------------------------------------------------------

    def resume(self, tail: Sequence[Learned], kept: Kept) -> None:
        """Go on with what the journal taught behind the state; what it told then is followed, not asked again."""
        self.examiner.kept = kept
        self.deliver(tail)

    def deliver(self, learned: Sequence[Learned]) -> None:
        """Queue journal entries; the writer calls this in order, after their commit."""
        with self._lock:  # also while they are queued: at a start the journal's tail comes before what it leads to
            self._pending += [entry.seq for entry in learned]
            if traced := traces.get():
                self._traces |= {entry.seq: traced for entry in learned}
            for entry in learned:
                self._queue.put(entry)

    @property
    def lag(self) -> int:
        """Journal entries that the serving snapshot does not hold yet."""
        return len(self._pending)

    @property
    def unsolved(self) -> int:
        """Rows that the answering ridge does not hold yet; at least 1 until it is solved and swapped in."""
        return max(sum(head.stale for head in self.state.heads.values()), int(self._dirty_since is not None))

    def when(self, seq: int) -> Future[None]:
        """Return a future that is done when everything up to `seq` is in the serving snapshot."""
        done: Future[None] = Future()
        with self._lock:
            if self.failed is not None:
                done.set_exception(self.failed)
            elif self._is_in(seq):
                done.set_result(None)
            else:
                self._waiters.append((seq, done))
        return done

    def _is_in(self, seq: int) -> bool:
        """Say whether everything up to `seq` is learned, and what was to be set aside meanwhile is out."""
        return not self._pending or self._pending[0] > max(seq, self._out_at)

    def learned_up_to(self, newest: int) -> int:
        """Return the seq up to which everything is in the serving snapshot; `newest` when nothing waits."""
        with self._lock:
            return self._pending[0] - 1 if self._pending else max(newest, self.state.seq)

    def was_set_aside(self, entry: Learned) -> bool:
        """Say whether what an entry taught was set aside when its turn came."""
        return any(self._is_aside(row) for row in entry.born)

    def _is_aside(self, row: Row) -> bool:
        first, last = self._aside.get(row.source, (0, -1))
        return first <= row.born <= last

    def call(self, run: Callable[[], T], *, trailing: bool = False) -> Future[T]:
        """Run something in the learner's thread, after what is queued now, with the ridge solved: the barrier.

        With `trailing` it does not wait for sums that are far behind the rows (`trails` tells).
        """
        call = _Call(run, trailing)
        self._queue.put(call)
        if self.failed is not None:
            self._refuse_calls(self.failed)
        return call.done

    # -- in the learner's thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        torch.get_num_threads()  # a thread takes the number over once: now, not while a short text has it at one
        try:
            while self._step():
                pass
        except BaseException as error:  # a learner that cannot go on must not look as if it did
            log.exception("learning stopped", extra={"action": "learner_failed", "domain": self.domain})
            why = error if isinstance(error, AdaptdError) else NotReady(  # who waits has done nothing wrong
                f"learning has stopped: {error}",
                hint="send it again when the daemon runs: what is journalled is known by its id")
            with self._lock:
                self.failed = why
                waiters, self._waiters = self._waiters, []
            for _, done in waiters:
                fail(done, why)
            self._refuse_calls(why)
            self.on_failure(error)

    def _refuse_calls(self, error: BaseException) -> None:
        """Fail what is queued: nobody will run it any more."""
        while self._deferred:
            if (late := self._deferred.popleft()) is not None:
                fail(late.done, error)
        while not self._queue.empty():
            with contextlib.suppress(queue.Empty):
                if isinstance(item := self._queue.get_nowait(), _Call):
                    fail(item.done, error)

    def _step(self) -> bool:
        self.beat = time.monotonic()
        entries, call, end = self._take()
        if entries:
            self._learn_traced(entries)
        if self.state.seq >= self._out_at:
            self._out_at = 0  # before a call: a rollback goes back in seq
        if (call is not None or end) and self._out_at:
            self._deferred.append(call)
            return True
        barrier = call is not None and not (call.trailing and self._far_behind())
        if self._behind and (call is None or (barrier and self.trails)):
            self._catch_up(wholly=barrier)
        if self.trails and not self._behind and (call is not None or end or self._due()):
            self.solve()
        if call is not None:
            self._complete_record()
            self.beat = math.inf  # what is asked for takes as long as it takes: records are forgotten, a version is brought back
            try:
                settle(call.done, call.run())
            except Exception as error:  # belongs to whoever called
                fail(call.done, error)
        return not end

    def _far_behind(self) -> bool:
        return self._behind and sum(head.stale for head in self.state.heads.values()) > self._block

    @property
    def trails(self) -> bool:
        """Whether the ridge that answers lacks labels that memory has."""
        return self._dirty_since is not None

    def _due(self) -> bool:
        assert self._dirty_since is not None
        return time.monotonic() - self._dirty_since >= self._solve_after_s

    def _take(self) -> tuple[list[Learned], _Call | None, bool]:
        """Wait for work; return a block of entries, up to a call that stands behind them."""
        timeout = 0.0 if self._behind else 1.0 if self._dirty_since is None else \
            max(0.0, self._dirty_since + self._solve_after_s - time.monotonic())
        entries: list[Learned] = []
        rows = 0
        if self._deferred and not self._out_at:
            late = self._deferred.popleft()
            return entries, late, late is None
        while rows < self._block:
            try:
                item = self._queue.get(timeout=timeout) if not entries and timeout > 0 else self._queue.get_nowait()
            except queue.Empty:
                return entries, None, False
            if not isinstance(item, Learned):
                return entries, item, item is None
            entries.append(item)
            rows += len(item.born)
        return entries, None, False

    def _learn_traced(self, entries: Sequence[Learned]) -> None:
        began, mine = time.monotonic(), Traces()
        if self._traces:
            with self._lock:
                mine = tuple({trace: None for entry in entries for trace in self._traces.pop(entry.seq, ())})
        token = traces.set(mine)
        self._learn(entries)
        traces.reset(token)
        self.told("learn", began, mine, [row.event for entry in entries for row in entry.born] if mine else ())

    def _learn(self, entries: Sequence[Learned]) -> None:
        began = time.monotonic()
        if self.forgotten:
            entries = [replace(e, born=[row for row in e.born if row.event not in self.forgotten]) for e in entries]
        vectors = self._vectors(sorted({row.place for entry in entries for row in entry.born}))
        self.examiner.examine(entries, vectors)
        self.apply(entries, vectors)
        self._follow_changes()
        self.publish()
        self.rate.took(len(entries), time.monotonic() - began)
        self._release(len(entries))
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()
        self.on_learned(sum(row.part == 0 for entry in entries for row in entry.born))  # a text counts once, not its words

    def _release(self, learned: int) -> None:
        """Let those go on who waited for what is learned now."""
        with self._lock:
            del self._pending[:learned]
            ready = [done for seq, done in self._waiters if self._is_in(seq)]
            self._waiters = [(seq, done) for seq, done in self._waiters if not self._is_in(seq)]
        for done in ready:
            settle(done, None)

    def apply(self, entries: Sequence[Learned], vectors: dict[int, Tensor]) -> None:
        """Teach memory and means, in order; a correction retires rows before its own are entered."""
        fresh: dict[str, list[Row]] = {name: [] for name in self.state.heads}
        for entry in entries:
            if entry.died:
                self._enter(fresh, vectors)
                for head in self.state.heads.values():
                    head.retire_rows(entry.died)
            for row in entry.born:
                if row.head in fresh:
                    fresh[row.head].append(row)
            self.state.seq = entry.seq
        self._enter(fresh, vectors)
        for name, head in self.state.heads.items():
            for entry in entries:
                if entry.died:
                    head.inherit(entry.died, [row.id for row in entry.born if row.head == name])
        self._record_evictions()

    def _record_evictions(self) -> None:
        heads = self.state.heads.values()
        if new := [one for head in heads for one in head.bounded.new]:
            self._recorded = self.record(self.state.seq, new)
            for head in heads:
                head.bounded.new = []
        self._none_new = not new and any(head.bounded.rules(self.state.seq) is not None for head in heads)

    def _complete_record(self) -> None:
        """Wait until whoever reads the store finds what labels told, every eviction that memory has made, and no others."""
        if self._none_new:
            self._recorded, self._none_new = self.record(self.state.seq, []), False
        for written in (self._recorded, self.examiner.recorded):
            if written is not None:
                written.result()

    def _enter(self, fresh: dict[str, list[Row]], vectors: dict[int, Tensor]) -> None:
        for name, rows in fresh.items():
            if rows:
                head = self.state.heads[name]
                head.learn(NewRows(ids=[r.id for r in rows], events=[r.place for r in rows], born=[r.born for r in rows],
                                   targets=[head.class_of(r.target) for r in rows], sources=[r.source for r in rows],
                                   contents=[r.content for r in rows], holdout=[r.holdout for r in rows],
                                   vectors=torch.stack([vectors[r.place] for r in rows])))
                head.retire_rows([r.id for r in rows if self._is_aside(r)])
                rows.clear()

    def _follow_changes(self) -> None:
        """Where answers are contradicted by examples like the remembered ones, have those follow the label."""
        for name, head in self.state.heads.items() if self.follows_changes else ():
            if self.state.tags(name):
                continue  # a new type contradicts what is outside of spans: words of all kinds, which cannot follow it
            drift = self.state.drift
            for kind in drift.suspects(name):
                if (found := changed(head, name, kind, drift, self.state.seq)) is not None:
                    drift.follow(name, found.label, found.origin, found.heir)
                    self.on_change(found)

    def _suspect(self, found: Finding | None) -> None:
        """Where a source contradicts too often, have what it taught set aside before it is learned."""
        if found is None or found.source in self.examiner.quarantine.trusted:
            return
        done = self.on_finding(found)
        if done is not None:
            out, whole = done
            self._aside[found.source] = found.since, out  # what it had taught before that comes back behind `out`
            self._out_at = max(self._out_at, whole)

    def replay(self, state: State, entries: Sequence[Learned], tested: int) -> None:
        """Fold the outcomes of journal entries into a state beside this one, in blocks that no clock decides about.

        Answers that were given count all; what would have been answered is asked for the newest `tested` entries, of a
        memory that begins with them.
        """
        first, beside = first_labels(entries[: max(0, len(entries) - tested)]), self._beside(state)
        beside.examiner.compare(first, beside.examiner.count(first), {})
        self.fold(state, entries, tested)

    def fold(self, state: State, entries: Sequence[Learned], tested: int) -> None:
        """Do what `replay` does with the newest `tested` entries alone. Any thread may."""
        aside, first = self._beside(state), max(0, len(entries) - tested)
        for name, head in state.heads.items():
            head.learned = sum(row.head == name for entry in entries[:first] for row in entry.born)
        aside.publish()
        for start in range(first, len(entries), self._block):
            if threading.current_thread() is self._thread:
                self.beat = time.monotonic()
            aside.go_through(entries[start : start + self._block], self._block)

    def go_through(self, block: Sequence[Learned], together: int) -> None:
        """Learn a block of entries, `together` of them at once, and solve: beside what is served, in the caller's thread."""
        for start in range(0, len(block), together):
            self._learn(block[start : start + together])
        self.solve()

    def _beside(self, state: State) -> Learner:
        other = Learner(self.domain, state, Aside(), self._vectors, self.examiner.answers, block=self._block, solve_after_s=0.0,
                        quarantine=self.examiner.quarantine, incumbent=self.examiner.incumbent)
        other.examiner.tuned = self.examiner.tuned
        return other

    def solve(self) -> None:
        """Solve the ridges of all heads and serve them."""
        began = time.monotonic()
        for head in self.state.heads.values():
            head.solve()  # also when nothing is stale: a restore brings the sums to the rows and leaves the rest to this
            head.compact()
        self.publish()
        self._dirty_since = None
        self.told("solve", began)

    def publish(self) -> None:
        """Swap in a snapshot of the state, between two batches."""
        def make() -> Snapshot:
            heads = {}
            for name, head in self.state.heads.items():
                head.index()
                heads[name] = head.snapshot()
            return Snapshot(version=self.state.version, seq=self.state.seq, heads=heads)

        snapshot = self._inference.swap(self.domain, make).result()
        if self.on_published is not None:
            self.on_published(snapshot)

    def settle(self, *, solved: bool) -> None:
        """After a restore: bring the sums to the rows between other work; solve at the end unless `solved`."""
        self._behind = True
        if not solved:
            self._dirty_since = time.monotonic()

    def _catch_up(self, *, wholly: bool) -> None:
        heads = self.state.heads.values()
        left = before = sum(head.stale for head in heads)
        while left and (wholly or left == before):
            self.beat = time.monotonic()  # of many rows this takes minutes
            left = sum(head.sync(self._block) for head in heads)
        self._behind, self._made = left > 0, self._made + before - left
        if not self._behind:
            made, self._made = self._made, 0
            self.on_caught_up(made)
