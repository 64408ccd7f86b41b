"""When an adaptation starts by itself."""

from __future__ import annotations

import random

import pytest

from adaptd.config import Adapt
from adaptd.metrics import Outcomes
from adaptd.triggers import MOST_DOUBLINGS, Tried, Triggers, _tried

REJECTED, WANTS_ROWS = Tried(promoted=False, barren=True, labels=1000, cpu_s=10.0), Tried(promoted=False, barren=False)
PROMOTED = Tried(promoted=True, barren=False, gain=0.02, labels=1000, cpu_s=10.0)


def stream(*parts: tuple[int, float]) -> Outcomes:
    """Return outcomes of so many answers each with a share of right ones."""
    chance, outcomes = random.Random(0), Outcomes()
    for count, share in parts:
        for _ in range(count):
            outcomes.add(chance.random() < share)
    return outcomes


def test_by_count_each_label_once() -> None:
    triggers = Triggers([], 0)
    assert triggers.due(Adapt(), 999, Outcomes()) is None
    assert triggers.due(Adapt(), 1, Outcomes()) == "1000 new labels"
    triggers.begun()
    assert triggers.due(Adapt(), 999, Outcomes()) is None
    assert Triggers([], 999).due(Adapt(), 1, Outcomes()) == "1000 new labels"  # those from before the start count
    assert Triggers([], 0).due(Adapt(enabled=False), 5000, Outcomes()) is None
    assert Triggers([], 0).due(Adapt(every_labels=0), 5000, Outcomes()) is None


@pytest.mark.parametrize(("tried", "times"), [
    ([], 1), ([REJECTED], 2), ([REJECTED] * 3, 8), ([REJECTED] * 19, 2**MOST_DOUBLINGS), ([REJECTED, PROMOTED], 1),
    ([WANTS_ROWS] * 3, 1), ([PROMOTED, REJECTED, WANTS_ROWS, REJECTED], 4)])
def test_what_gains_nothing_costs_less_and_less_until_something_does(tried: list[Tried], times: int) -> None:
    triggers = Triggers(tried, 0)
    assert (triggers.backed_off, triggers.at_labels(Adapt())) == (times, 1000 * times)
    assert triggers.due(Adapt(), 1000 * times - 1, Outcomes()) is None and triggers.due(Adapt(), 1, Outcomes()) is not None


def test_by_drift_when_errors_rise_and_not_when_they_fall() -> None:
    worse, better = stream((800, 0.9), (200, 0.3)), stream((700, 0.3), (300, 0.95))
    assert worse.drifts and better.drifts
    settings = Adapt(on_drift=True)
    assert "drift" in (Triggers([], 0).due(settings, 200, worse) or "")
    assert Triggers([], 0).due(settings, 199, worse) is None  # too few to learn from
    assert Triggers([REJECTED], 0).due(settings, 200, worse) is None
    assert Triggers([], 0).due(settings, 200, better) is None
    assert Triggers([], 0).due(Adapt(), 200, worse) is None
    triggers = Triggers([], 0)
    assert triggers.due(settings, 200, worse)
    triggers.begun()
    assert triggers.due(settings, 200, worse) is None  # one drift, one adaptation


def test_by_worth_from_what_earlier_ones_gained_and_cost() -> None:
    triggers = Triggers([PROMOTED, PROMOTED], 500)
    assert triggers.worth() == pytest.approx(0.02 / 1000 * 500 * 500 / 10)
    assert "worth 0.5 errors" in (triggers.due(Adapt(worth=0.5), 0, Outcomes()) or "")
    assert Triggers([PROMOTED], 500).due(Adapt(worth=0.51), 0, Outcomes()) is None
    assert Triggers([REJECTED], 500).due(Adapt(worth=1e-9), 0, Outcomes()) is None  # it was never worth anything
    assert Triggers([], 500).due(Adapt(worth=1e-9), 0, Outcomes()) is None  # nobody knows


def test_what_an_adaptation_came_to_is_read_from_verdict_and_metrics() -> None:
    metrics = {"holdout": {"candidate": 0.9, "champion": 0.88}, "training": {"new": 700, "cpu_seconds": 9.5}}
    promoted = _tried("verdict-promote", {"evidence": {"n": 500}}, metrics)
    assert (promoted.promoted, promoted.gain, promoted.labels, promoted.cpu_s) == (True, pytest.approx(0.02), 700, 9.5)
    few = {"evidence": {"n": 300, "rows_needed": 900}}
    assert not _tried("verdict-undecided", few, metrics).barren
    assert not _tried("verdict-undecided", {"evidence": {"n": 30, "min_rows": 100}}, metrics).barren
    assert _tried("verdict-undecided", {"evidence": {"n": 900, "rows_needed": 900}}, metrics).barren
    assert _tried("verdict-reject", few, metrics).barren and _tried("adapt-failed", {}, {}).barren
