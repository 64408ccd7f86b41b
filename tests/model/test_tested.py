"""What labels told is kept as it was, follows a fold to the same bits, and goes with what was forgotten."""

from __future__ import annotations

from dataclasses import replace

import torch

from adaptd import tested
from adaptd.model.decoder import opine
from adaptd.model.fold import Fold
from adaptd.quarantine import Dissent
from tests.model.test_head import cloud, enter, fresh, ready


def test_a_fold_that_follows_what_is_kept_is_the_same_to_the_bit() -> None:
    head = fresh()
    x, labels = cloud(3, 40)
    enter(head, x, labels)
    snapshot = ready(head).snapshot()
    more, truth = cloud(3, 30, seed=5)
    said, one, other = opine(more, snapshot), Fold(), Fold()
    one.grow(3)
    for place, label in enumerate(truth):
        step = one.update(said, place, snapshot.index_of(label) if place % 7 else None, snapshot)
        told = tested.Tested.of(place, tested.Tested(row=place, said=(label, label), step=step).written())
        assert told.step == step and told.said == (label, label) and told.dissent is None
        other.follow(told.step)
    assert other.facts() == one.facts() and other.facts()["temperature"] != 0.0
    assert torch.equal(other.trust, one.trust) and torch.equal(other.at, one.at) and float(one.at.max()) > 0
    assert torch.equal(other.recent.tensor(), one.recent.tensor())


def test_what_a_correction_told_is_whom_it_contradicts_alone() -> None:
    told = tested.Tested(row=7, dissent=Dissent(from_others=True, from_all=None))
    assert tested.Tested.of(7, told.written()) == told
    assert tested.Tested.of(7, replace(told, dissent=None).written()) == tested.Tested(row=7)
