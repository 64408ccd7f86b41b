"""What is counted of answers that were given: calibration, coverage, error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from adaptd.metrics import BINS, HALF_LIFE, Calibration, Outcomes, count_answers
from adaptd.records import Row, Said


def row(event: int, target: str) -> Row:
    return Row(id=event, event=event, part=0, head="label", target=target, born=event, source="s", content=b"", holdout=False)


def test_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy() -> None:
    random = np.random.RandomState(0)
    confidence, right = random.rand(300), random.rand(300) < 0.5
    fold = Calibration()
    for c, r in zip(confidence.tolist(), right.tolist(), strict=True):
        fold.add(c, r)
    weight = 0.5 ** (np.arange(299, -1, -1) / HALF_LIFE)
    bins = (confidence * BINS).astype(int)
    gaps = [abs((weight * (confidence - right))[bins == one].sum()) for one in range(BINS)]
    figures = fold.figures()
    assert figures is not None and figures["ece"] == pytest.approx(sum(gaps) / weight.sum())
    assert figures["brier"] == pytest.approx((weight * (confidence - right) ** 2).sum() / weight.sum())
    assert len(figures["bins"]) == BINS and sum(one["share"] for one in figures["bins"]) == pytest.approx(1.0)


@pytest.mark.parametrize("confidence", [-3.0, 1.5, float("inf"), float("nan")])
def test_a_stored_confidence_that_is_none_stops_nobody_and_is_not_counted(confidence: float) -> None:
    outcomes, per_label = Outcomes(), dict[str, list[int]]()
    count_answers(outcomes, per_label, [row(1, "a")], {1: Said(labels={"label": "a"}, confidence=confidence)})
    assert (outcomes.right, outcomes.calibration.figures()) == (1, None)


def test_certainty_that_is_wrong_half_of_the_time_is_seen_and_fades_once_it_is_right() -> None:
    fold = Calibration()
    assert fold.figures() is None
    for turn in range(200):
        fold.add(1.0, turn % 2 == 0)
    assert (fold.figures() or {})["ece"] == pytest.approx(0.5, abs=0.01)
    for _ in range(int(3 * HALF_LIFE)):
        fold.add(1.0, True)
    assert (fold.figures() or {})["ece"] < 0.05


def test_outcomes_come_back_from_their_facts_and_go_on_alike() -> None:
    first = Outcomes()
    for turn in range(50):
        first.withhold() if turn % 5 == 0 else first.add(turn % 3 > 0, 0.7)
    second = Outcomes.of(json.loads(json.dumps(first.facts())))
    for one in (first, second):
        one.add(True, 0.9)
    assert first.facts() == second.facts() and first.calibration.figures() == second.calibration.figures()


def test_a_version_from_before_calibration_was_counted_is_read() -> None:
    old = {"total": 2, "right": 1, "drifts": 0, "window": "10"}
    assert Outcomes.of(old).calibration.figures() is None and Outcomes.of(old).accuracy == 0.5


def test_an_abstention_is_neither_coverage_nor_an_error_and_says_nothing_of_calibration() -> None:
    outcomes = Outcomes()
    per_label: dict[str, list[int]] = {}
    given = {1: Said(labels={"label": "a"}, confidence=0.8), 2: Said(labels={"label": "b"}, confidence=0.6),
             3: Said(labels={"label": None}, confidence=0.1)}
    count_answers(outcomes, per_label, [row(1, "a"), row(2, "a"), row(3, "a"), row(4, "a")], given)
    assert (outcomes.coverage, outcomes.error, outcomes.accuracy) == (pytest.approx(2 / 3), 0.5, pytest.approx(1 / 3))
    assert outcomes.total == 3 and per_label == {"a": [1, 3]}
    bins = (outcomes.calibration.figures() or {})["bins"]
    assert [(one["confidence"], one["accuracy"]) for one in bins] == [(pytest.approx(0.6), 0.0), (pytest.approx(0.8), 1.0)]
