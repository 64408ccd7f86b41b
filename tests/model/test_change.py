"""Whether contradictions are a changed label or a new class, on a real head; and whom its rows are traced back to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptd.drift import LIMIT, Change, Drift, Record
from adaptd.model.bounded import FOREVER
from adaptd.model.change import changed, spoke
from adaptd.model.decoder import opine
from adaptd.model.memory import NewRows
from adaptd.model.network import Head
from adaptd.policies import register_memory_policies
from adaptd.retained import Bound
from tests.model.test_head import DIM, cloud, enter, fresh, ready

SEEN = 1000  # the seq from which the evidence is


def contradicted(head: Head, said: str, vectors: Tensor, labels: Sequence[str],
                 confirmed: Sequence[tuple[int, str]] = ()) -> Change | None:
    """Teach rows behind the old ones, each of which contradicted the answer `said`; return what that is taken for."""
    enter(head, vectors, labels, SEEN)
    seen = [*((SEEN + place, label) for place, label in enumerate(labels)), *confirmed]
    drift = Drift({"label": {(said, said): Record(tested=50.0, wrong=1.0, evidence=LIMIT, since=SEEN, seen=seen)}})
    return changed(head, "label", (said, said), drift, SEEN + len(labels))


def old_and_more() -> tuple[Head, Tensor]:
    """Return a head that knows four classes, 40 rows of each, and twenty more examples of the first."""
    head = fresh()
    enter(head, *cloud(4, 40))
    return head, cloud(4, 20, seed=7)[0][::4]


def test_all_rows_follow_a_known_label_that_examples_like_them_have_now() -> None:
    head, more = old_and_more()
    found = contradicted(head, "class 0", more[:19], ["class 1"] * 19)
    assert found is not None and found.whole and found.labels == {"class 1": 19} and found.confirmed == 0
    assert found.moves == dict.fromkeys(range(0, 160, 4), "class 1")


def test_what_one_source_contradicts_and_another_confirms_is_a_dispute() -> None:
    head, more = old_and_more()
    enter(head, cloud(4, 2, seed=8)[0][::4], ["class 0"] * 2, SEEN + 19)
    head.memory.sources[-2:] = ["other"] * 2
    seen = [(SEEN + 19, "class 0"), (SEEN + 20, "class 0")]
    assert contradicted(head, "class 0", more[:19], ["class 1"] * 19, seen) is None


def test_a_name_that_is_new_needs_more_evidence() -> None:
    head, more = old_and_more()
    assert contradicted(head, "class 0", more[:8], ["other"] * 8) is None
    head, more = old_and_more()
    found = contradicted(head, "class 0", more, ["other"] * 20)
    assert found is not None and set(found.moves.values()) == {"other"}


def test_a_new_class_beside_an_old_one_is_no_change_however_long_it_contradicts() -> None:
    head, more = old_and_more()
    beside = torch.nn.functional.normalize(more[0].float() + 1.2 * more[1].float().roll(3), dim=0)
    near = beside + 0.25 * torch.randn(30, DIM, generator=torch.Generator().manual_seed(5)) / DIM**0.5
    labels = ["class 9"] * 30
    assert contradicted(head, "class 0", torch.nn.functional.normalize(near, dim=1).half(), labels) is None


def test_rows_are_divided_where_the_examples_like_them_are_called_differently() -> None:
    generator, head = torch.Generator().manual_seed(3), fresh()
    centres = torch.nn.functional.normalize(torch.randn(2, DIM, generator=generator), dim=1)

    def around(each: int) -> Tensor:
        noise = 0.5 * torch.randn(2 * each, DIM, generator=generator) / DIM**0.5
        return torch.nn.functional.normalize(centres.repeat(each, 1) + noise, dim=1).half()

    enter(head, around(30), ["both"] * 60)
    enter(head, *cloud(2, 30), first=100)
    found = contradicted(head, "both", around(10), ["both", "class 1"] * 10)
    assert found is not None and not found.whole
    assert found.moves == dict.fromkeys(range(1, 60, 2), "class 1")


def test_rows_that_contradict_others_do_not_follow_and_evicted_ones_end() -> None:
    head, more = old_and_more()
    policy = next(kind for kind in register_memory_policies() if kind.name == "reservoir")()
    head.bounded.rules = lambda seq: Bound(capacity=0, per_class=35, policy=policy) if seq < FOREVER else None
    head.learn(NewRows(ids=[500], events=[500], born=[500], targets=[0], sources=["test"], contents=[b"x"], holdout=[False],
                       vectors=more[19:20]))
    beyond = head.bounded.evicted_of(0, SEEN)
    assert beyond
    head.bounded.rules = lambda seq: None
    found = contradicted(head, "class 0", more[:19], ["class 1"] * 19)
    assert found is not None and [row for row, to in found.moves.items() if to is None] == beyond


def test_rows_are_traced_to_what_their_event_was_called_first() -> None:
    head, more = old_and_more()
    moved = [0, 4, 8]
    head.retire_rows(moved)
    head.learn(NewRows(ids=[200, 201, 202], events=moved, born=[200] * 3, targets=[1] * 3, sources=["test"] * 3,
                       contents=[b"x"] * 3, holdout=[False] * 3, vectors=head.memory.vectors[[0, 4, 8]].clone()))
    head.inherit(moved, [200, 201, 202])
    memory = head.memory
    slots = [memory.slot_of[row] for row in (200, 201, 202)]
    assert memory.origins[slots].tolist() == [0, 0, 0] and memory.targets[slots].tolist() == [1, 1, 1]
    frozen = ready(head).snapshot()
    assert spoke(opine(more[:1], frozen), 0, frozen) == ("class 0", "class 0")
    memory.origins[slots] = 1
    head.trace([*((row, row, "class 0") for row in moved), *((200 + i, event, "class 1") for i, event in enumerate(moved))])
    assert memory.origins[: memory.size].tolist() == [*[0, 1, 2, 3] * 40, 0, 0, 0]
    assert memory.compacted().origins[: memory.size - 3].tolist().count(0) == 40
