"""What contradicts whom, on a real head; and that no version is taken while a source is half set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace

import pytest
from torch import Tensor

from adaptd.config import Quarantine
from adaptd.learn import Learner
from adaptd.model.decoder import opine
from adaptd.model.dissent import dissent
from adaptd.model.memory import NewRows
from adaptd.model.network import Head
from adaptd.predict import Inference
from adaptd.quarantine import Dissent, Finding
from adaptd.records import Learned, Row
from adaptd.state import State
from tests.model.test_head import cloud, fresh, ready

WAIT_S = 240.0


def teach(head: Head, vectors: Tensor, labels: Sequence[str], source: str, first: int) -> None:
    ids = range(first, first + len(labels))
    head.enter(NewRows(ids=ids, events=ids, born=ids, targets=[head.class_of(label) for label in labels],
                       sources=[source] * len(labels), contents=[b"c"] * len(labels), holdout=[False] * len(labels),
                       vectors=vectors))


def stands(head: Head, vector: Tensor, label: str, source: str, event: int = 10_000) -> Dissent:
    """Return how a label stands that a source gives to an event."""
    snapshot = ready(head).snapshot()
    target = snapshot.index_of(label)
    assert target is not None
    return dissent(opine(vector[None], snapshot), 0, row(event, label, source), target, snapshot, head.taught)


def row(number: int, label: str, source: str) -> Row:
    return Row(id=number, event=number, part=0, head="label", target=label, born=number, source=source, content=b"c",
               holdout=False)


@pytest.fixture
def taught() -> tuple[Head, Tensor, list[str]]:
    """Return a head that the desk has taught four classes, and texts that nobody has taught."""
    head = fresh()
    vectors, labels = cloud(4, 30)
    teach(head, vectors, labels, "desk", 0)
    return head, *cloud(4, 5, seed=7)


def test_a_wrong_label_contradicts_what_others_taught_and_a_right_one_does_not(taught: tuple[Head, Tensor, list[str]]) -> None:
    head, vectors, labels = taught
    for place in range(8):
        assert stands(head, vectors[place], labels[place], "intern") == Dissent(from_others=False, from_all=False)
        assert stands(head, vectors[place], labels[(place + 1) % 4], "intern") == Dissent(from_others=True, from_all=True)


def test_nobody_contradicts_what_it_taught_alone(taught: tuple[Head, Tensor, list[str]]) -> None:
    head, vectors, _ = taught
    assert stands(head, vectors[0], "class 1", "desk") == Dissent(from_others=None, from_all=True)


def test_a_label_of_which_others_taught_little_is_new(taught: tuple[Head, Tensor, list[str]]) -> None:
    head, vectors, _ = taught
    teach(head, vectors[:4], ["new"] * 4, "crm", 1000)
    teach(head, cloud(4, 10, seed=8)[0], ["new"] * 40, "intern", 2000)
    assert stands(head, vectors[5], "new", "intern").from_others is None


def test_a_correction_is_not_held_against_the_row_that_it_corrects(taught: tuple[Head, Tensor, list[str]]) -> None:
    head, vectors, labels = taught
    teach(head, vectors[:1], [labels[1]], "desk", 5000)  # a mistake
    assert not stands(head, vectors[0], labels[0], "intern", event=5000).from_others


def test_alive_rows_are_counted_by_label_and_source_through_death_and_return(taught: tuple[Head, Tensor, list[str]]) -> None:
    head, *_ = taught
    before = deepcopy(head.taught)
    head.retire([0, 1, 2])
    assert (head.taught["class 0"]["desk"], head.taught["class 3"]["desk"]) == (29, 30)
    head.revive([0, 1, 2])
    assert head.taught == before


class Aside:
    """Stands where the journal does: more is committed meanwhile, and only then the source is set aside.

    A label that the source itself had corrected since holds again, and is learned anew.
    """

    def __init__(self, learner: Learner, meanwhile: Sequence[Learned], at: int, died: Sequence[int]) -> None:
        self.learner, self.meanwhile, self.at, self.died = learner, meanwhile, at, died
        self.found: list[Finding] = []

    def __call__(self, found: Finding) -> tuple[int, int] | None:
        self.found.append(found)
        if len(self.found) > 1:
            return None
        again = Learned(seq=self.at + 1, domain=1, born=[row(self.at + 1, "class 0", "intern")], admitted=True)
        self.learner.deliver([*self.meanwhile, Learned(seq=self.at, domain=1, died=self.died), again])
        return self.at, self.at + 1


@pytest.fixture
def learner() -> Iterator[tuple[Learner, dict[int, Tensor]]]:
    head, vectors = fresh(), {}
    inference = Inference({}, 1000)
    made = Learner("text", State(version=1, seq=0, heads={"label": head}), inference,
                   lambda events: {event: vectors[event] for event in events}, lambda born: {}, block=32, solve_after_s=1e9,
                   quarantine=Quarantine(run_length=1000))
    inference.start()
    made.start()
    yield made, vectors
    made.close()
    inference.close()


def entries(vectors: Tensor, labels: Sequence[str], source: str, first: int, known: dict[int, Tensor]) -> list[Learned]:
    known |= {first + place: vector for place, vector in enumerate(vectors)}
    return [Learned(seq=first + place, domain=1, born=[row(first + place, label, source)]) for place, label in enumerate(labels)]


def test_no_call_comes_between_a_finding_and_its_source_being_out(learner: tuple[Learner, dict[int, Tensor]]) -> None:
    made, known = learner
    vectors, labels = cloud(4, 30)
    made.deliver(entries(vectors, labels, "desk", 1, known))
    made.when(120).result(WAIT_S)
    wrong, true = cloud(4, 20, seed=7)
    bad = entries(wrong, [f"class {(int(label[-1]) + 1) % 4}" for label in true], "intern", 121, known)
    known[202] = wrong[0]
    journal = made.on_finding = Aside(made, bad[40:], 201, [entry.seq for entry in bad])

    def seen() -> tuple[int, int]:
        head = made.state.heads["label"]
        return made.state.seq, sum(by["intern"] for by in head.taught.values())

    made.deliver(bad[:40])
    assert made.call(seen).result(WAIT_S) == (202, 1)  # though it stands before what is committed meanwhile
    made.call(lambda: setattr(made.state, "seq", 120)).result(WAIT_S)  # as a rollback does
    assert made.call(seen).result(WAIT_S) == (120, 1)
    assert (journal.found[0].source, journal.found[0].since) == ("intern", 121)
    assert all(made.was_set_aside(entry) for entry in bad)


def test_all_words_of_a_text_are_one_label_of_its_source(learner: tuple[Learner, dict[int, Tensor]]) -> None:
    made, known = learner
    found: list[Finding] = []
    made.on_finding = found.append
    vectors, labels = cloud(4, 30)
    made.deliver(entries(vectors, labels, "desk", 1, known))
    wrong, true = cloud(4, 20, seed=7)
    bad = [f"class {(int(label[-1]) + 1) % 4}" for label in true]
    text = [replace(row(121 + part, label, "intern"), event=121, part=part, born=121) for part, label in enumerate(bad)]
    known |= {one.place: vector for one, vector in zip(text, wrong, strict=True)}
    made.deliver([Learned(seq=121, domain=1, born=text)])
    made.when(121).result(WAIT_S)
    record = made.state.suspicion.records["intern"]
    assert (found, record.labels, record.contrary) == ([], 1, 1)
    made.deliver(entries(wrong, bad, "intern", 300, known))
    made.when(379).result(WAIT_S)
    assert found[0].source == "intern"
