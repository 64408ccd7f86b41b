"""The sequential test against known truth: how seldom it demotes what is as good, how surely what is worse."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from adaptd.sequential import MOST, Trial, e_value

ALPHA = 0.05


def exact(better: int, worse: int) -> Fraction:
    """Return the closed form in whole numbers."""
    n = better + worse
    return Fraction(sum(comb(n + 1, k) for k in range(worse + 1)), (n + 1) * comb(n, worse))


def boundary(most: int) -> list[int]:
    """Return, per number of rows that tell the two apart, how many against the new one demote it (most + 1: none)."""
    worst, found = 0, []
    for n in range(most + 1):
        while worst <= n and e_value(n - worst, worst) < 1 / ALPHA:
            worst += 1
        found.append(worst)
        worst = max(0, worst - 1)
    return found


def chance_to_demote(share: float, rows: int) -> float:
    """Return the exact chance that it is ever demoted within so many such rows, each against it with this chance."""
    limits, alive, demoted = boundary(rows), np.array([1.0]), 0.0  # alive[w]: w rows against it, not demoted yet
    for n in range(1, rows + 1):
        alive = np.append(alive * (1 - share), 0.0) + np.append(0.0, alive * share)
        demoted += alive[limits[n]:].sum()
        alive[limits[n]:] = 0.0
    return float(demoted)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (0, 1), (3, 7), (7, 3), (40, 40), (100, 140), (140, 100)])
def test_the_running_sum_is_the_closed_form(better: int, worse: int) -> None:
    assert e_value(better, worse) == pytest.approx(float(exact(better, worse)), rel=1e-12)


def test_a_fair_coin_leaves_the_wealth_as_it_is_or_takes_from_it() -> None:
    """Of whatever has come, the mean over the two next outcomes is no more than what is there."""
    for better in range(40):
        for worse in range(40):
            now = exact(better, worse)
            assert (exact(better + 1, worse) + exact(better, worse + 1)) / 2 <= now


@pytest.mark.parametrize("rows", [10, 100, 1000, 3000])
def test_one_that_is_as_good_is_demoted_at_most_once_in_twenty_however_often_one_looks(rows: int) -> None:
    assert chance_to_demote(0.5, rows) <= ALPHA
    assert chance_to_demote(0.4, rows) <= chance_to_demote(0.5, rows)


def test_one_that_is_worse_is_demoted_soon() -> None:
    assert chance_to_demote(1.0, 7) == 1.0  # seven rows in a row
    assert chance_to_demote(0.9, 30) > 0.99
    assert chance_to_demote(0.75, 100) > 0.95
    assert chance_to_demote(0.65, 200) > 0.9


@pytest.mark.parametrize(("lost", "won", "least", "most"), [
    (0.03, 0.03, 0.0, ALPHA), (0.10, 0.10, 0.0, ALPHA), (0.02, 0.04, 0.0, 0.01),  # as good, as good, better
    (0.08, 0.03, 0.9, 1.0), (0.15, 0.05, 0.99, 1.0)])  # 5 and 10 points worse
def test_a_trial_of_a_thousand_labels_in_simulation(lost: float, won: float, least: float, most: float) -> None:
    random, trials, labels = np.random.default_rng(7), 1000, 1000
    limits = boundary(labels)
    demoted = 0
    for _ in range(trials):
        drawn = random.random(labels)
        against, favour = np.cumsum(drawn < lost), np.cumsum(drawn > 1 - won)
        demoted += any(w >= limits[w + b] for b, w in zip(favour.tolist(), against.tolist(), strict=True))
    spread = 3 * (ALPHA * (1 - ALPHA) / trials) ** 0.5 if most == ALPHA else 0.0
    assert least <= demoted / trials <= most + spread, demoted / trials


def test_a_trial_counts_only_rows_on_which_exactly_one_was_right_as_evidence() -> None:
    trial = Trial(version=7, champion=6, began=0.0, shadows={})
    for new, old in [(True, True)] * 50 + [(False, False)] * 50 + [(True, False)] * 2 + [(False, True)] * 3:
        trial.add(new, old)
    assert trial.evidence() == {"version": 7, "champion": 6, "compared": 105, "better": 2, "worse": 3,
                                "e_value": round(e_value(2, 3), 4)}


def test_a_trial_goes_on_with_its_own_counts_alone() -> None:
    first = Trial(version=7, champion=6, began=0.0, shadows={}, n=9, better=1, worse=2)
    same, other = (Trial(version=number, champion=6, began=0.0, shadows={}) for number in (7, 8))
    for one in (same, other):
        one.go_on(first.facts())
        one.go_on(None)
    assert (same.n, same.better, same.worse, other.n) == (9, 1, 2, 0)


def test_evidence_beyond_measure_is_a_number_still() -> None:
    assert e_value(0, 5000) == MOST and 0 <= e_value(5000, 0) < 1e-3
