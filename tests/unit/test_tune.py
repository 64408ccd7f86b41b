"""The search for settings: what is tried, and that the number of tries is paid for."""

from __future__ import annotations

import random

import torch

from adaptd.config import Adapt, DomainSettings
from adaptd.strategies import register_strategies
from adaptd.tune import NEVER, Rows, Try, candidates, judged

KNOWN = {one.name: one for one in register_strategies()}


def rows(n: int) -> Rows:
    return Rows(tensors={"targets": torch.zeros(n, dtype=torch.int64)}, facts={"labels": ["a"]}, held=torch.arange(n),
                ridge=torch.zeros(n, 1))


def answering(share: float, n: int, seed: int) -> Try:
    chance = random.Random(seed)
    one = Try({})
    one.right = torch.tensor([chance.random() < share for _ in range(n)])
    return one


def test_no_adaptation_is_tried_first_and_nothing_twice_and_never_what_is_in_force() -> None:
    now = DomainSettings(adapt=Adapt(strategy="derpp", options={"learning_rate": 1e-3}))
    found = candidates(now, KNOWN, 128, 0)
    assert found[0].otherwise == NEVER and len(found) == 128
    assert len({str(sorted(one.otherwise.items())) for one in found}) == 128
    assert all(one.otherwise for one in found) and not any(one.otherwise.get("adapt.strategy") == "derpp" for one in found)
    defaults = {"adapt.options.learning_rate": 2e-3, "adapt.options.steps": 64}
    assert all(one.otherwise for one in candidates(DomainSettings(), KNOWN, 128, 0))
    assert not any(one.otherwise.items() >= defaults.items() for one in candidates(DomainSettings(), KNOWN, 128, 0))
    assert [one.otherwise for one in candidates(now, KNOWN, 9, 0)] == [one.otherwise for one in found[:9]]


def test_the_best_of_many_equal_ones_is_seldom_called_better() -> None:
    """Of 200 searches with 16 tries that are all as good as what is in force: not more than the stated 5 % and its chance."""
    n, tries, wrong = 400, 16, 0
    for search in range(200):
        configured = answering(0.9, n, 10_000 + search)
        best = max((answering(0.9, n, 1000 * search + one) for one in range(tries)), key=lambda one: int(one.right.sum()))
        wrong += judged(best, configured, rows(n), tries)["better"]
    assert wrong <= 17  # binomial, p = 0.05: 99 %


def test_a_better_one_is_called_so_and_one_that_failed_is_not() -> None:
    found = judged(answering(0.97, 400, 1), answering(0.85, 400, 2), rows(400), 16)
    assert found["better"] and 0 < found["lower"] < found["delta"] < found["upper"] and found["p"] < 0.05
    failed = answering(0.97, 400, 1)
    failed.failed = "diverged"
    assert judged(failed, answering(0.85, 400, 2), rows(400), 16) == {"better": False, "why": "an adaptation failed: diverged"}
