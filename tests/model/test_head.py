"""One head: exact sums, exact leave-one-out, equal bits after a way back, files that give the same answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptd.errors import CorruptFile
from adaptd.heads import WRITTEN, Generate
from adaptd.model import closed_form, files, network
from adaptd.model.attention import Adapter, principal
from adaptd.model.closed_form import RandomFeatures, Ridge, leave_out, strength, weights
from adaptd.model.decoder import decode, opine
from adaptd.model.fold import Fold
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions

DIM, FEATURES = 48, 256
OPTIONS = HeadOptions(dim=DIM, features=FEATURES, neighbours=16, seed=1)


def cloud(classes: int, each: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Return unit vectors around class centres, in turn, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, DIM, generator=torch.Generator().manual_seed(99))
    labels = [c for _ in range(each) for c in range(classes)]
    x = centres[labels] + 0.7 * torch.randn(len(labels), DIM, generator=generator)
    return torch.nn.functional.normalize(x, dim=1).half(), [f"class {c}" for c in labels]


def fresh() -> Head:
    return Head(OPTIONS, RandomFeatures(DIM, FEATURES, 1))


def enter(head: Head, vectors: Tensor, labels: Sequence[str], first: int = 0) -> None:
    ids = range(first, first + len(labels))
    head.enter(NewRows(ids=ids, events=ids, born=ids, targets=[head.class_of(label) for label in labels],
                       sources=["test"] * len(labels), contents=[bytes([i % 256]) for i in ids], holdout=[False] * len(labels),
                       vectors=vectors))


def ready(head: Head) -> Head:
    head.solve()
    head.index()
    return head


def answers(head: Head, vectors: Tensor) -> list[tuple[str | None, dict[str, float]]]:
    head.index()
    return [(one.label, one.scores) for one in decode(vectors, head.snapshot())]


@pytest.mark.parametrize(("dim", "count"), [(48, 256), (48, 100), (5, 12), (1, 3)])
def test_features_are_those_of_signs_times_hadamard_columns(dim: int, count: int) -> None:
    features = RandomFeatures(dim, count, 1)
    x = torch.nn.functional.normalize(torch.randn(9, dim, generator=torch.Generator().manual_seed(3)), dim=1)
    columns = torch.stack([features(row[None] * 1.0)[0] for row in torch.eye(dim)]) > 0  # of each unit vector: where W is +1
    w = torch.where(columns, 1.0, -1.0)

    expected = ((x * closed_form.GRID).round() @ w / (closed_form.GRID * closed_form.STEP)).round().clamp(0, closed_form.LEVELS)

    assert torch.equal(features(x), expected)


def test_features_are_the_same_integers_however_rows_are_batched() -> None:
    x, _ = cloud(4, 50)
    features = RandomFeatures(DIM, FEATURES, 1)

    whole = features(x)

    assert torch.equal(whole, torch.cat([features(x[i:i + 7]) for i in range(0, len(x), 7)]))
    assert torch.equal(whole, whole.round()) and 0 <= float(whole.min()) and float(whole.max()) <= closed_form.LEVELS


@pytest.mark.parametrize("pending", [16, 10_000])
def test_a_removed_row_leaves_no_trace_in_sums_or_solution(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr(closed_form, "PENDING", pending)  # with and without a Gram matrix
    x, labels = cloud(5, 20)
    y = torch.tensor([int(label.split()[1]) for label in labels])
    h = RandomFeatures(DIM, FEATURES, 1)(x)
    never, once = Ridge(FEATURES), Ridge(FEATURES)
    keep = torch.arange(len(y)) % 3 > 0

    never.add(h[keep], y[keep], 5)
    for rows in torch.randperm(len(y), generator=torch.Generator().manual_seed(3)).split(9):
        once.add(h[rows], y[rows], 5)
    once.remove(h[~keep], y[~keep])

    def small(ridge: Ridge) -> tuple[Tensor, Tensor]:
        rows = keep & (weights(ridge.counts)[y] > 1)
        return h[rows], y[rows]

    assert torch.equal(never.moment, once.moment) and torch.equal(never.counts, once.counts)
    torch.testing.assert_close(once.solve(lambda: small(once)), never.solve(lambda: small(never)), atol=1e-5, rtol=1e-4)
    if never.gram is not None and once.gram is not None:
        assert torch.equal(never.gram, once.gram)


def test_the_woodbury_correction_equals_a_new_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "PENDING", 60)
    x, labels = cloud(4, 40)
    y = torch.tensor([int(label.split()[1]) for label in labels])
    h = RandomFeatures(DIM, FEATURES, 1)(x)
    ridge = Ridge(FEATURES)
    nothing = (h[:0], y[:0])

    ridge.add(h[:100], y[:100], 4)
    ridge.solve(lambda: nothing)
    penalty_then = closed_form.penalty(float((h[:100] ** 2).sum()), FEATURES)
    ridge.add(h[100:130], y[100:130], 4)
    corrected = ridge.solve(lambda: nothing)

    rows = h[:130].double()
    direct = torch.linalg.solve(rows.T @ rows + penalty_then * torch.eye(FEATURES, dtype=torch.float64),
                                rows.T @ torch.nn.functional.one_hot(y[:130], 4).double())
    torch.testing.assert_close(corrected.double(), direct, atol=1e-5, rtol=1e-3)


def test_leave_one_out_equals_learning_without_the_row_and_its_copies() -> None:
    x, labels = cloud(4, 10)
    x[7] = x[3]  # the same content twice, with different labels
    y = torch.tensor([int(label.split()[1]) for label in labels])
    h = RandomFeatures(DIM, FEATURES, 1)(x)
    group = torch.arange(len(y))
    group[7] = group[3]
    held = torch.tensor([3, 7, 20])
    weight = torch.ones(len(y))
    lam = closed_form.penalty(float((h * h).sum()), FEATURES)

    scores = leave_out(h, y, weight, group, 4, held)

    for place, row in enumerate(held.tolist()):
        rest = group != group[row]
        kernel = h[rest].double()
        b = torch.linalg.solve(kernel.T @ kernel + lam * torch.eye(FEATURES, dtype=torch.float64),
                               kernel.T @ torch.nn.functional.one_hot(y[rest], 4).double())
        torch.testing.assert_close(scores[place].double(), h[row].double() @ b, atol=1e-4, rtol=1e-3)


def test_noisy_labels_get_a_strong_penalty_and_clean_ones_the_least() -> None:
    x, labels = cloud(4, 60)
    y = torch.tensor([int(label.split()[1]) for label in labels])
    h = RandomFeatures(DIM, FEATURES, 1)(x)
    generator = torch.Generator().manual_seed(5)
    noisy = torch.where(torch.rand(len(y), generator=generator) < 0.5, torch.randint(0, 4, y.shape, generator=generator), y)
    assert strength(h, y) == 1.0 and strength(h, noisy) > 1.0

    def right_without_itself(lam: float) -> int:
        found = 0
        for row in range(len(y)):
            rest = torch.arange(len(y)) != row
            k = h[rest].double()
            b = torch.linalg.solve(k @ k.T + lam * torch.eye(len(k), dtype=torch.float64),
                                   torch.nn.functional.one_hot(noisy[rest], 4).double())
            found += int((h[row].double() @ k.T @ b).argmax() == noisy[row])
        return found

    base = closed_form.penalty(float((h * h).sum()), FEATURES)
    assert right_without_itself(strength(h, noisy) * base) > right_without_itself(base)


def test_the_penalty_depends_on_what_is_alive_alone() -> None:
    x, labels = cloud(3, 60)
    generator = torch.Generator().manual_seed(5)
    noisy = [label if chance > 0.5 else "cloud 0" for label, chance in
             zip(labels, torch.rand(len(labels), generator=generator).tolist(), strict=True)]
    head, twin = fresh(), fresh()
    enter(head, x, noisy)
    enter(twin, x[:100], noisy[:100])
    before = twin.strength()
    enter(twin, x[100:], noisy[100:], first=100)
    head.solve()
    twin.solve()
    assert head.strength() == twin.strength() == head.ridge.strength
    twin.retire_rows(range(100, len(x)))
    twin.solve()
    assert twin.ridge.strength == before


def test_the_penalty_is_not_chosen_anew_for_what_is_evicted_or_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(network, "strength", lambda h, y: chosen.append(len(y)) or 4.0)
    head = fresh()
    x, labels = cloud(3, 60)
    enter(head, x[:70], labels[:70])
    ready(head)
    head.memory.evicted[:20] = True
    head._drop_dead()
    enter(head, x[70:127], labels[70:127], first=70)
    assert head.strength() == 4.0 and chosen == [64], "they are in the sums"
    enter(head, x[127:140], labels[127:140], first=127)
    head.bounded.read_from(lambda events: {event: x[event] for event in events})
    assert head.strength() == 4.0 and chosen == [64, 128]
    head.retire_rows([30])
    assert head.strength() == 4.0 and chosen == [64, 128, 128]


def test_the_next_answer_knows_a_label_that_was_never_seen_before() -> None:
    head = fresh()
    x, labels = cloud(4, 30)
    enter(head, x, labels)
    ready(head)
    new, _ = cloud(5, 2, seed=7)

    enter(head, new[4:5], ["brand new"], first=len(labels))

    assert answers(head, new[9:10])[0][0] == "brand new"


def test_the_way_back_gives_the_very_bits_that_answered_then_and_the_way_forth_too() -> None:
    head = fresh()
    x, labels = cloud(4, 30)
    asked, _ = cloud(4, 5, seed=5)
    enter(head, x, labels)
    then = answers(ready(head), asked)
    version = head.dump()
    enter(head, x[:40], ["poison"] * 20 + ["other"] * 20, first=1000)
    later = answers(ready(head), asked)
    poisoned = head.dump()

    for contents, alive, expected in ((version, range(120), then), (poisoned, [*range(120), *range(1000, 1040)], later),
                                      (version, range(120), then)):
        head.load_head(contents["head"], "version")
        head.retire([slot for row, slot in head.memory.slot_of.items() if row not in set(alive)])
        head.revive([head.memory.slot_of[row] for row in alive])
        assert answers(head, asked) == expected
        head.sync()
        assert answers(head, asked) == expected


def test_a_label_that_was_rolled_back_can_be_learned_again_in_another_order() -> None:
    head = fresh()
    x, labels = cloud(6, 30)
    enter(head, x, [label if label < "class 4" else "class 0" for label in labels])
    version = ready(head).dump()
    enter(head, x[4::6], ["late a"] * 30, first=1000)
    enter(head, x[5::6], ["late b"] * 30, first=2000)
    ready(head)
    head.load_head(version["head"], "version")
    head.retire([slot for row, slot in head.memory.slot_of.items() if row >= 1000])

    enter(head, x[5::6], ["late b"] * 30, first=3000)

    twin = fresh()
    enter(twin, x, [label if label < "class 4" else "class 0" for label in labels])
    enter(twin, x[5::6], ["late b"] * 30, first=3000)
    assert head.labels == twin.labels
    asked, _ = cloud(6, 4, seed=11)
    for (label, scores), (wanted, expected) in zip(answers(ready(head), asked), answers(ready(twin), asked), strict=True):
        assert label == wanted
        assert scores == pytest.approx(expected, abs=1e-4)


def test_a_checkpoint_brings_a_head_back_with_equal_answers() -> None:
    head = fresh()
    x, labels = cloud(4, 30)
    asked, _ = cloud(4, 5, seed=5)
    enter(head, x, labels)
    head.retire([3, 9])
    before = answers(ready(head), asked)
    (statistics, index), contents = head.checkpoint(), head.dump()

    back = fresh()
    back.load_head(contents["head"], "checkpoint")
    alive = [i for i in range(len(labels)) if i not in (3, 9)]
    rows = NewRows(ids=alive, events=alive, born=alive, targets=[back.class_of(labels[i]) for i in alive],
                   sources=["test"] * len(alive), contents=[b""] * len(alive), holdout=[False] * len(alive), vectors=x[alive])
    back.restore(rows, files.parse(statistics, "statistics"), index)

    assert answers(back, asked) == before
    assert back.stale == 0 or back.ridge.gram is None


@pytest.mark.parametrize("most", [0, 4096])
def test_a_checkpoint_soon_after_a_rollback_holds_no_row_that_was_rolled_back(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sums held what memory had lost, and who read it could not know."""
    monkeypatch.setattr(network, "CATCH_UP", most)
    head = fresh()
    x, labels = cloud(4, 400)
    enter(head, x, labels)
    version = ready(head).dump()
    enter(head, x[:300], ["poison"] * 300, first=5000)
    ready(head)
    head.load_head(version["head"], "version")
    born = np.arange(len(labels))
    head.become(born, born, born[:0], lambda rows: pytest.fail("nothing is absent"))
    statistics, index = head.checkpoint()

    back = fresh()
    back.load_head(version["head"], "checkpoint")
    rows = NewRows(ids=born.tolist(), events=born.tolist(), born=born.tolist(), targets=[back.class_of(one) for one in labels],
                   sources=["test"] * len(born), contents=[b""] * len(born), holdout=[False] * len(born), vectors=x)
    back.restore(rows, files.parse(statistics, "statistics"), index)
    back.sync()
    assert int(back.ridge.counts.sum()) == len(labels) and back.stale == 0


def test_an_adapter_changes_the_space_and_the_way_back_is_exact() -> None:
    head = fresh()
    x, labels = cloud(4, 30)
    asked, _ = cloud(4, 5, seed=5)
    enter(head, x, labels)
    before = answers(ready(head), asked)
    trained = files.parse_adapter(files.dump_adapter(Adapter(principal(x, 16), 16.0, {"class 0": 0.1})), "candidate", DIM)

    head.adopt(trained)
    between = answers(head, asked)
    head.adopt(Adapter())

    assert between != before
    assert [label for label, _ in answers(head, asked)] == [label for label, _ in before]
    assert head.keys.dim == DIM


def test_compaction_drops_the_dead_and_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptd.model.network.COMPACT_FROM", 10)
    head = fresh()
    x, labels = cloud(4, 30)
    asked, _ = cloud(4, 5, seed=5)
    enter(head, x, labels)
    head.retire(list(range(0, 60, 2)))
    before = answers(ready(head), asked)

    assert head.compact()

    assert answers(head, asked) == before
    assert head.memory.size == 90


def test_trust_follows_the_expert_that_is_right_and_returns_to_the_prior_in_silence() -> None:
    head = fresh()
    x, labels = cloud(2, 40)
    enter(head, x, labels)
    snapshot = ready(head).snapshot()
    said = opine(x[:2], snapshot)
    said.experts[:, 0, 0] = [0.01, 0.99, 0.99]  # the ridge is wrong about class 0
    fold = Fold()
    fold.grow(2)

    for _ in range(10):
        fold.update(said, 0, 0, snapshot)

    now = fold.trusted(snapshot.learned)
    assert float(now[0, 0]) < float(fold.prior[0])
    torch.testing.assert_close(fold.trusted(snapshot.learned + 100_000)[:, 0], fold.prior, atol=1e-6, rtol=0)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"\xff" * 8 + b"{}"])
def test_a_file_that_is_not_ours_is_refused(damage: bytes) -> None:
    with pytest.raises(CorruptFile):
        files.parse(damage, "some file")


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = files.dump_adapter(Adapter(torch.full((DIM, 4), float("nan")), 16.0, {}))

    with pytest.raises(CorruptFile, match="not finite"):
        files.parse_adapter(broken, "candidate", DIM)


def test_an_adapter_of_another_shape_is_refused() -> None:
    with pytest.raises(CorruptFile, match="shape"):
        files.parse_adapter(files.dump_adapter(Adapter(torch.ones(7, 4), 16.0, {})), "candidate", DIM)


@pytest.mark.parametrize("each", [20, 400])  # few rows: solved without a Gram matrix; many: with one
def test_a_head_that_forgets_equals_one_that_never_saw_the_rows(each: int) -> None:
    x, labels = cloud(4, each)
    gone = {i for i in range(len(x)) if i % 7 == 0 or labels[i] == "class 1"}  # a class that goes wholly, in the middle
    rest = [i for i in range(len(x)) if i not in gone]
    taught, twin = fresh(), fresh()
    enter(taught, x, labels)
    ready(taught)
    for place, i in enumerate(rest):
        enter_one(twin, x[i : i + 1], labels[i], i, place)
    ready(twin)
    queries, _ = cloud(4, 10, seed=5)
    assert answers(taught, queries) != answers(twin, queries)

    taught.forget(gone, [(i, labels[i]) for i in rest])
    ready(taught)

    assert taught.labels == twin.labels == ["class 2", "class 3", "class 0"]  # in the order of what is left
    assert torch.equal(taught.means.sums, twin.means.sums) and torch.equal(taught.means.counts, twin.means.counts)
    assert torch.equal(taught.ridge.moment, twin.ridge.moment) and torch.equal(taught.ridge.counts, twin.ridge.counts)
    if twin.ridge.gram is not None or taught.ridge.gram is not None:
        assert taught.ridge.gram is not None and twin.ridge.gram is not None
        assert torch.equal(taught.ridge.gram, twin.ridge.gram)
    assert taught.memory.ids[: taught.memory.size].tolist() == rest and len(taught.keys) == len(rest)
    assert torch.equal(taught.memory.vectors[: len(rest)], x[rest])
    for (label, scores), (other, wanted) in zip(answers(taught, queries), answers(twin, queries), strict=True):
        assert label == other and scores == pytest.approx(wanted, abs=1e-6)
    assert b"class 1" not in b"".join([*taught.checkpoint(), *taught.dump().values()])


def enter_one(head: Head, vector: Tensor, label: str, row: int, place: int) -> None:
    head.enter(NewRows(ids=[row], events=[row], born=[row], targets=[head.class_of(label)], sources=["test"],
                       contents=[bytes([row % 256])], holdout=[False], vectors=vector))
    assert head.learned == place + 1


def test_a_head_that_forgets_everything_knows_nothing() -> None:
    x, labels = cloud(2, 5)
    head = fresh()
    enter(head, x, labels)
    ready(head)

    head.forget(range(len(x)), [])
    ready(head)

    assert (head.labels, head.memory.size, head.learned) == ([], 0, 0)
    assert answers(head, x)[0] == (None, {})
    enter(head, x, labels, first=100)
    assert [label for label, _ in answers(ready(head), x)] == labels


def test_a_shadow_answers_as_the_head_would_had_its_adapter_stayed() -> None:
    """Also of rows that came since, with what it would have learned from outcomes, and over rows that were dropped."""
    vectors, labels = cloud(6, 40)
    changed, stayed = fresh(), fresh()
    for head in (changed, stayed):
        enter(head, vectors[:120], labels[:120])
        ready(head)
    shadow = changed.shadow()
    changed.adopt(Adapter(principal(vectors, 8), 16.0, {"class 1": 0.5}))
    for start in range(120, 240, 40):
        serving = {}
        for head in (changed, stayed):
            head.index()
            serving[id(head)] = head.snapshot()
        changed.keep_up(shadow)
        for head, now, fold in ((changed, changed.under(shadow, serving[id(changed)]), shadow.fold),
                                (changed, serving[id(changed)], changed.fold), (stayed, serving[id(stayed)], stayed.fold)):
            said = opine(vectors[start:start + 40], now)
            for place, label in enumerate(labels[start:start + 40]):
                fold.update(said, place, head.class_of(label), now)
        for head in (changed, stayed):
            enter(head, vectors[start:start + 40], labels[start:start + 40], start)
    for head in (changed, stayed):
        head.retire(range(30))
        head.solve()
    for _ in range(2):
        changed.index()
        stayed.index()
        changed.keep_up(shadow)
        said, wanted = opine(vectors, changed.under(shadow, changed.snapshot())), opine(vectors, stayed.snapshot())
        assert torch.equal(torch.tensor(said.pooled), torch.tensor(wanted.pooled))
        for head in (changed, stayed):
            head._drop_dead()


def test_texts_that_are_written_are_of_one_class_however_many_come_go_and_come_back() -> None:
    vectors, labels = cloud(4, 10)
    texts = [f"{label}, text {place}" for place, label in enumerate(labels)]
    head = Head(HeadOptions(dim=DIM, features=FEATURES, neighbours=16, seed=1, abstain_error=0.05, kind=Generate()),
                RandomFeatures(DIM, FEATURES, 1))
    enter(head, vectors, texts)
    ready(head)
    assert head.labels == [WRITTEN] and head.snapshot().index_of("a text that nobody taught") == 0
    assert [one.neighbours[0].row for one in decode(vectors, head.snapshot(), evidence=1)] == list(range(40)), "memory decides"
    assert decode(vectors, head.snapshot())[0].reason is None, "no outcomes are known, and it is answered"
    head.set_labels(texts)
    head.trace((row, row // 2, text) for row, text in enumerate(texts))
    head.forget([0, 1], list(enumerate(texts))[2:])
    head.solve()
    one = Head(head.options, RandomFeatures(DIM, FEATURES, 1))
    enter(one, vectors[2:], texts[2:], first=2)
    ready(one)
    assert head.labels == one.labels == [WRITTEN]
    assert torch.equal(head.snapshot().ridge, one.snapshot().ridge)
    assert [n.row for n in decode(vectors[:1], head.snapshot(), evidence=9)[0].neighbours] == [
        n.row for n in decode(vectors[:1], one.snapshot(), evidence=9)[0].neighbours]
