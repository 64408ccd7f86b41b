"""The fold that says which label is contradicted where it used to be right: when it speaks, and that it stays silent else."""

from __future__ import annotations

import json
import random

import pytest

from adaptd.drift import Change, Drift

A = ("a", "a")  # examples that were never called otherwise


def play(rates: list[float], seed: int = 0, fold: Drift | None = None) -> list[int]:
    """Let answers 'a' be wrong at these rates, one after another; return when the label was suspect."""
    chooser, fold, found = random.Random(seed), fold or Drift(), []
    for seq, rate in enumerate(rates):
        fold.judge("label", A, "b" if chooser.random() < rate else "a", seq, seq)
        if list(fold.suspects("label")):
            found.append(seq)
    return found


@pytest.mark.parametrize(("rate", "most"), [(1.0, 6), (0.6, 40)])
def test_a_label_whose_answers_turn_wrong_is_suspect_soon_and_the_evidence_begins_there(rate: float, most: int) -> None:
    for seed in range(20):
        fold = Drift()
        first = play([0.03] * 300 + [rate] * 60, seed, fold)[0]
        assert 300 <= first < 300 + most, seed
        fold = Drift()
        play([0.03] * 300 + [rate] * (first - 299), seed, fold)
        assert 280 < fold.records["label"][A].since <= first


def test_a_label_that_was_always_wrong_now_and_then_is_not_suspect() -> None:
    suspect = [play([rate] * 2000, seed) for seed in range(20) for rate in (0.02, 0.1, 0.2)]
    assert sum(bool(found) for found in suspect) <= 3  # of 60, and what they look like is asked first


def test_a_label_that_is_wrong_from_the_beginning_or_has_few_answers_is_not_watched() -> None:
    assert play([0.9] * 500) == []
    assert play([0.0] * 10 + [1.0] * 9) == []


def test_contradictions_that_were_no_change_become_the_long_run() -> None:
    fold = Drift()
    assert play([0.03] * 100 + [0.5] * 3000, 1, fold)
    record = fold.records["label"][A]
    assert not list(fold.suspects("label")) and record.rate > 0.3 and len(record.seen) <= 64


def test_the_fold_goes_on_from_its_json_as_if_it_had_not_been_away() -> None:
    whole, first = Drift(), Drift()
    play([0.03] * 100 + [0.6] * 9, 3, whole)
    play([0.03] * 100 + [0.6] * 9, 3, first)
    second = Drift.of(json.loads(json.dumps(first.facts())))
    for fold in (whole, second):
        for seq in range(109, 115):
            fold.judge("label", A, "b", seq, seq)
    assert second.facts() == whole.facts() and [kind for kind in second.suspects("label")] == [A]
    assert Drift.of(None).facts() == []


def test_the_long_run_goes_with_examples_that_all_follow_and_evidence_begins_anew() -> None:
    fold = Drift()
    play([0.03] * 100 + [1.0] * 5, 0, fold)
    before = fold.records["label"][A]
    found = Change(head="label", label="a", origin="a", seq=104, since=100, labels={"b": 5}, confirmed=0, evidence=9.0,
                   whole=True, moves={1: "b", 2: "b", 3: None})
    assert found.heir == found.facts()["heir"] == "b"
    fold.follow("label", "a", "a", found.heir)
    assert fold.records["label"]["b", "a"].tested == before.tested > 80 and (before.evidence, before.seen) == (0.0, [])
    assert list(fold.suspects("label")) == []
