"""What is read off probabilities over targets, by the kind of head."""

from __future__ import annotations

import numpy as np
import pytest

from adaptd.heads import Classify, Labels, Ordinal, Regress
from adaptd.model.reading import UNTAUGHT, nearer, reading

SETS = ('["a"]', '["a","b"]', '["c"]', "[]")


def chances(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_one_label_is_the_likeliest() -> None:
    [decision] = reading(Classify(), ("a", "b", "c")).decisions(chances(0.2, 0.5, 0.3)[None], 3)
    assert (decision.target, decision.confidence, list(decision.scores)) == ("b", 0.5, ["b", "c", "a"])


def test_a_label_applies_that_is_likely_over_all_sets_that_have_it() -> None:
    [decision] = reading(Labels(), SETS).decisions(chances(0.3, 0.4, 0.2, 0.1)[None], 4)
    assert decision.target == '["a"]' and decision.confidence == pytest.approx(0.3)
    assert decision.scores == pytest.approx({"a": 0.7, "b": 0.4, "c": 0.2})


def test_labels_may_come_together_that_nobody_taught_together() -> None:
    read = reading(Labels(), ('["a","b"]', '["b","c"]', '["a","c"]'))
    place, confidence = read.answered(chances(0.4, 0.3, 0.3))
    [decision] = read.decisions(chances(0.4, 0.3, 0.3)[None], 3)
    assert place == UNTAUGHT and decision.target == '["a","b","c"]' and confidence == pytest.approx(0.7 * 0.7 * 0.6)


@pytest.mark.parametrize(("given", "target"), [((0.4, 0.1, 0.2, 0.3), '["a"]'), ((0.1, 0.1, 0.2, 0.6), "[]")])
def test_where_no_label_is_likely_the_likeliest_set_is_answered(given: tuple[float, ...], target: str) -> None:
    assert reading(Labels(), SETS).decisions(chances(*given)[None], 4)[0].target == target


def test_of_an_order_the_median_is_answered_and_of_numbers_the_one_nearest_to_the_mean() -> None:
    order = reading(Ordinal(classes=("low", "middle", "high")), ("high", "low", "middle"))
    assert order.decisions(chances(0.4, 0.35, 0.25)[None], 3)[0].target == "middle"
    number = reading(Regress(low=0, high=10), ("10.0", "0.0", "4.0"))
    assert number.decisions(chances(0.45, 0.55, 0.0)[None], 3)[0].target in ("10.0", "0.0"), "one without rows is no answer"
    assert number.decisions(chances(0.4, 0.5, 0.1)[None], 3)[0].target == "4.0"


def test_a_class_that_the_order_lost_is_not_answered() -> None:
    read = reading(Ordinal(classes=("low", "high")), ("gone", "low", "high"))
    assert read.decisions(chances(0.9, 0.04, 0.06)[None], 3)[0].target == "high"
    assert nearer(Regress(low=0, high=10), "3.0", "5.0", "4.5") == -1 == -nearer(Regress(low=0, high=10), "5.0", "3.0", "4.5")
