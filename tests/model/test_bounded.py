"""A head within bounds: sums that miss nothing, and the same retrievable rows whatever way led to a state."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptd.model import files, network
from adaptd.model.bounded import Columns, evicted_rows
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.decoder import opine
from adaptd.model.evicted import ROW, packed
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions
from adaptd.policies import Herding, Newest, register_memory_policies
from adaptd.retained import Bound

DIM, FEATURES, CLASSES = 32, 128, 5
OPTIONS = HeadOptions(dim=DIM, features=FEATURES, neighbours=16, seed=1)
POLICIES = pytest.mark.parametrize("kind", register_memory_policies(), ids=lambda kind: kind.name)


class Store:
    """What a head learns from, and reads evicted rows from."""

    def __init__(self, rows: int = 300) -> None:
        self.labels = [min(row % 13, CLASSES - 1) for row in range(rows)]
        x = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(9))[self.labels]
        x = x + 0.7 * torch.randn(rows, DIM, generator=torch.Generator().manual_seed(1))
        self.vectors = torch.nn.functional.normalize(x, dim=1).half()
        self.read = 0

    def fetch(self, events: Sequence[int]) -> dict[int, Tensor]:
        self.read += len(events)
        return {event: self.vectors[event] for event in events}

    def rows(self, head: Head, ids: Collection[int]) -> NewRows:
        every = sorted(ids)
        return NewRows(ids=every, events=every, born=every, targets=[head.class_of(str(self.labels[i])) for i in every],
                       sources=["test"] * len(every), contents=[content(i) for i in every], holdout=[False] * len(every),
                       vectors=self.vectors[every])

    def columns(self, head: Head, ids: Collection[int]) -> Columns:
        rows = np.zeros(len(ids), ROW)
        rows["id"] = rows["event"] = rows["born"] = rows["order"] = sorted(ids)
        rows["target"] = [head.class_of(str(self.labels[i])) for i in sorted(ids)]
        rows["alive"], rows["content"] = True, packed([content(i) for i in sorted(ids)])
        return rows

    def head(self, policy: Newest | None = None, capacity: int = 60, per_class: int = 0) -> Head:
        head = Head(OPTIONS, RandomFeatures(DIM, FEATURES, 1))
        head.bounded.read_from(self.fetch)
        if policy is not None:
            bound = Bound(capacity=capacity, per_class=per_class, policy=policy)
            head.bounded.rules = lambda seq: bound
        return head

    def teach(self, head: Head, rows: range, block: int = 1) -> Head:
        for start in range(rows.start, rows.stop, block):
            head.learn(self.rows(head, range(start, min(start + block, rows.stop))))
        return head


def content(row: int) -> bytes:
    return np.random.default_rng(row // 2).bytes(16)  # every content twice


def kept(head: Head) -> list[int]:
    return sorted(head.memory.ids[:head.memory.size][head.memory.retrievable].tolist())


def answers(head: Head, vectors: Tensor) -> Tensor:
    head.solve()
    head.index()
    return torch.from_numpy(opine(vectors, head.snapshot()).pooled)


def alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5, rtol=0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memories of test size be compacted, and a Gram matrix be made."""
    monkeypatch.setattr(network, "COMPACT_FROM", 20)
    monkeypatch.setattr("adaptd.model.closed_form.PENDING", 100)


@POLICIES
def test_how_rows_are_grouped_and_when_the_memory_is_compacted_does_not_matter(kind: type[Newest], small: None) -> None:
    store = Store()
    one, blocks, slots, compacted = (store.head(kind()) for _ in range(4))
    store.teach(one, range(300))
    store.teach(blocks, range(300), 64)
    for start in range(0, 300, 30):
        for head in (slots, compacted):
            store.teach(head, range(start, start + 30), 7)
            head.solve()
        compacted.compact()
    assert kept(one) == kept(blocks) == kept(slots) == kept(compacted) and len(kept(one)) == 60
    assert one.bounded.new == blocks.bounded.new == compacted.bounded.new
    assert compacted.memory.size <= 75 and len(compacted.bounded.gone) >= 225
    asked = store.vectors[:20]
    assert torch.equal(answers(one, asked), answers(blocks, asked)) and alike(answers(slots, asked), answers(compacted, asked))


@POLICIES
def test_what_is_evicted_stays_in_the_sums_and_is_not_retrieved(kind: type[Newest], small: None) -> None:
    store = Store()
    bounded, free = store.teach(store.head(kind()), range(300), 50), store.teach(store.head(), range(300), 50)
    for head in (bounded, free):
        head.solve()
        head.compact()
        head.index()
    assert torch.equal(bounded.means.sums, free.means.sums) and torch.equal(bounded.ridge.moment, free.ridge.moment)
    assert bounded.ridge.gram is not None and free.ridge.gram is not None
    assert torch.equal(bounded.ridge.gram, free.ridge.gram)
    torch.testing.assert_close(bounded.snapshot().ridge, free.snapshot().ridge, atol=1e-5, rtol=1e-4)
    assert np.array_equal(bounded.snapshot().rates, free.snapshot().rates)
    _, slots = bounded.snapshot().retrieve(store.vectors)
    assert set(bounded.memory.ids[slots].ravel().tolist()) <= set(kept(bounded))


def test_a_label_of_an_evicted_row_can_be_corrected(small: None) -> None:
    store = Store()
    bounded, never = store.teach(store.head(Herding()), range(300), 50), store.head()
    never.set_labels(bounded.labels)
    bounded.solve()
    assert bounded.compact()
    gone = sorted(set(range(300)) - set(kept(bounded)))[::3]
    bounded.retire_rows(gone)
    assert bounded.stale == len(gone)
    never.enter(store.rows(never, set(range(300)) - set(gone)))
    for head in (bounded, never):
        head.solve()
    assert bounded.stale == 0 and torch.equal(bounded.means.sums, never.means.sums)
    assert bounded.ridge.gram is not None and never.ridge.gram is not None
    assert torch.equal(bounded.ridge.gram, never.ridge.gram) and torch.equal(bounded.ridge.moment, never.ridge.moment)
    assert bounded.bounded.facts()["evicted"] == 240 - len(gone)


@pytest.mark.parametrize("checkpoint", [True, False])
@POLICIES
def test_a_head_that_comes_back_from_the_disk_goes_on_alike(kind: type[Newest], checkpoint: bool, small: None) -> None:
    store = Store()
    head = store.teach(store.head(kind()), range(200), 40)
    head.solve()
    head.index()
    statistics, index = head.checkpoint()
    back = store.head(kind())
    back.set_labels(head.labels)
    stored = (files.parse(statistics, "statistics"), index) if checkpoint else (None, None)
    back.restore(store.rows(back, kept(head)), *stored, store.columns(back, set(range(200)) - set(kept(head))))
    back.learned = 200
    back.memory.order[:back.memory.size] = back.memory.ids[:back.memory.size]
    asked = store.vectors[200:220]
    assert (len(back.bounded.gone), kept(back)) == (140, kept(head))
    assert alike(answers(back, asked), answers(head, asked))
    for one in (head, back):
        store.teach(one, range(200, 300), 9)
    assert kept(back) == kept(head)
    assert alike(answers(back, asked), answers(head, asked))


@POLICIES
def test_the_way_back_gives_the_rows_that_were_retrievable_then_and_the_way_forth_too(kind: type[Newest], small: None) -> None:
    store = Store()
    head = store.teach(store.head(kind()), range(150), 10)
    then, scores = kept(head), answers(head, store.vectors[::10])
    store.teach(head, range(150, 300), 10)
    now, later = kept(head), answers(head, store.vectors[::10])
    head.compact()

    def become(upto: int, retrievable: Sequence[int]) -> None:
        alive = np.arange(upto)
        head.set_labels(list(dict.fromkeys(str(store.labels[row]) for row in range(upto))))
        head.bounded.become(alive, np.setdiff1d(alive, retrievable), lambda ids: store.rows(head, ids))
        head.learned = upto
        head.memory.order[:head.memory.size] = head.memory.ids[:head.memory.size]

    become(150, then)
    assert kept(head) == then and alike(answers(head, store.vectors[::10]), scores)
    head.compact()
    become(300, now)
    assert kept(head) == now and alike(answers(head, store.vectors[::10]), later)
    become(150, then)
    straight = store.teach(store.head(kind()), range(150), 10)
    for one in (head, straight):
        store.teach(one, range(150, 300), 33)
    assert kept(head) == kept(straight) == now


def test_a_capacity_that_is_lowered_is_reached_over_the_next_rows() -> None:
    store = Store()
    head = store.teach(store.head(), range(200), 50)
    bound = Bound(capacity=30, per_class=0, policy=Herding())
    head.bounded.rules = lambda seq: bound if seq >= 200 else None
    store.teach(head, range(200, 203), 3)
    assert 30 < len(kept(head)) <= 200 - 3 * 31
    store.teach(head, range(203, 210), 7)
    assert len(kept(head)) == 30


def test_limits_of_a_class_hold_beside_the_whole() -> None:
    store = Store()
    head = store.teach(store.head(Herding(), capacity=0, per_class=8), range(300), 100)
    assert np.bincount([store.labels[row] for row in kept(head)]).tolist() == [8] * CLASSES


def test_an_evicted_row_takes_few_bytes(small: None) -> None:
    store = Store()
    head = store.teach(store.head(Herding()), range(300), 50)
    head.solve()
    head.compact()
    head.index()
    assert head.memory.size == len(head.keys) == 60 and len(head.memory.slot_of) == 60
    assert head.bounded.gone.rows.nbytes / len(head.bounded.gone) == 55
    assert evicted_rows([], head.class_of, packed([])).dtype == ROW
