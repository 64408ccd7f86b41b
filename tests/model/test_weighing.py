"""Do weak rows help? Champion and champion with them on the same held-out rows; and what a head would label itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptd import training
from adaptd.bench.learning_cost import new_head
from adaptd.evaluate import paired, score
from adaptd.gate import NotWorse
from adaptd.model import proposing
from adaptd.model.memory import NewRows
from adaptd.model.network import Head
from adaptd.rows import FOREVER
from adaptd.weighing import weigh
from tests.model.test_asking import clusters

KINDS = 16
GATE = NotWorse(margin=0.0, min_rows=40)


def taught(vectors: Tensor, labels: list[str]) -> Head:
    """Return a head that has learned rows, half of them held out."""
    head, n = new_head(vectors.shape[1]), len(labels)
    head.learn(NewRows(ids=range(n), events=range(n), born=range(n), targets=[head.class_of(label) for label in labels],
                       sources=["desk"] * n, contents=[place.to_bytes(8, "big") for place in range(n)],
                       holdout=[place % 2 == 1 for place in range(n)], vectors=vectors))
    head.solve()
    head.index()
    return head


@pytest.fixture(scope="module")
def few() -> tuple[Head, Tensor, list[str]]:
    """Return a head that knows few examples of blurred classes, and more of the same with their true labels."""
    vectors, of = clusters([60] * KINDS, spread=3.0)
    names = [f"c{c}" for c in of]
    true = [place for place in range(len(of)) if place % 60 < 10]
    rest = [place for place in range(len(of)) if place % 60 >= 10]
    return taught(vectors[true], [names[i] for i in true]), vectors[rest], [names[i] for i in rest]


def verdict(few: tuple[Head, Tensor, list[str]], labels: list[str], gate: NotWorse = GATE) -> tuple[str, dict[str, Tensor]]:
    head, vectors, _ = few
    tensors, facts, adapter, _ = training.judged(head, FOREVER)
    scores = weigh(tensors, {"vectors": vectors, "targets": torch.tensor([head.class_of(one) for one in labels])}, facts, adapter)
    return gate.judge(paired(scores, tensors, facts["labels"], ())).decision, scores


def test_labels_that_help_are_shown_to_and_wrong_ones_are_not(few: tuple[Head, Tensor, list[str]]) -> None:
    labels, random = few[2], np.random.RandomState(0)
    assert verdict(few, labels)[0] == "promote"
    assert verdict(few, [f"c{random.randint(KINDS)}" for _ in labels])[0] != "promote"
    assert verdict(few, [f"c{(int(one[1:]) + 1) % KINDS}" for one in labels])[0] == "reject"


def test_the_champion_answers_as_in_the_evaluation_of_a_candidate(few: tuple[Head, Tensor, list[str]]) -> None:
    tensors, facts, adapter, _ = training.judged(few[0], FOREVER)
    scores = verdict(few, few[2])[1]
    assert torch.equal(scores["champion"], score(tensors, facts, {"champion": adapter, "candidate": adapter})["champion"])
    assert len(scores["rows"]) == 80 and not torch.equal(scores["champion"], scores["candidate"])


def test_too_few_held_out_rows_say_nothing(few: tuple[Head, Tensor, list[str]]) -> None:
    assert verdict(few, few[2], replace(GATE, min_rows=81))[0] == "undecided"


def test_what_the_experts_disagree_about_is_less_sure(few: tuple[Head, Tensor, list[str]]) -> None:
    head, vectors, labels = few
    said = proposing.guess(vectors, head.snapshot())
    right = np.array([one == label for one, label in zip(said.targets, labels, strict=True)])
    order = np.argsort(-said.sure)
    assert ((said.sure >= 0) & (said.sure <= 1)).all()
    assert right[order[:100]].mean() > right.mean() + 0.05
