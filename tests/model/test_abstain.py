"""Limits keep the rates that they state, on traffic that is simulated; a head keeps them over its files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptd.model.abstain import DOUBT, NONE, WINDOW, Recent, fit_limit, near_limit, risk_limit, upper
from adaptd.model.attention import Adapter
from adaptd.model.decoder import decode, opine
from adaptd.model.fold import Fold
from adaptd.model.network import Head
from tests.model.test_head import OPTIONS, cloud, enter, fresh, ready


@pytest.mark.parametrize("error", [0.02, 0.05, 0.1])
def test_answers_above_the_limit_are_wrong_at_most_at_the_stated_rate_but_for_the_doubt(error: float) -> None:
    broken, covered = 0, []
    for seed in range(100):
        random = np.random.RandomState(seed)
        confidence = random.beta(1.2, 0.2, WINDOW)
        limit = risk_limit(confidence, random.rand(WINDOW) < confidence, error)
        fresh = random.beta(1.2, 0.2, 20_000)  # traffic like it: right as often as it says
        given = fresh >= limit
        broken += given.any() and (1 - fresh[given]).mean() > error
        covered.append(given.mean())
    assert broken <= 100 * DOUBT and np.mean(covered) > 0.5


def test_the_rate_is_kept_also_where_confidence_says_nothing() -> None:
    random = np.random.RandomState(0)
    assert risk_limit(random.rand(WINDOW), random.rand(WINDOW) < 0.8, 0.05) == NONE


def test_no_rate_is_stated_before_there_are_outcomes_enough() -> None:
    assert upper(0, 20, DOUBT) > 0.1 > upper(0, 40, DOUBT)
    assert risk_limit(np.full(20, 0.9), np.ones(20) > 0, 0.05) == NONE
    assert risk_limit(np.zeros(0), np.zeros(0) > 0, 0.05) == NONE
    assert risk_limit(np.full(200, 0.9), np.ones(200) > 0, 0.05) == 0.9


def test_answers_of_equal_confidence_share_their_fate() -> None:
    confidence = np.r_[np.full(500, 0.9), np.full(500, 0.5)]
    right = np.r_[np.ones(500), np.arange(500) % 2] > 0
    assert risk_limit(confidence, right, 0.05) == 0.9


@pytest.mark.parametrize("count", [30, 300])
def test_at_most_the_stated_rate_of_what_is_in_scope_is_refused(count: int) -> None:
    refused = []
    for seed in range(200):
        random = np.random.RandomState(seed)
        refused.append((random.randn(1000) < fit_limit(random.randn(count), 0.05)).mean())
    assert 0.02 < np.mean(refused) <= 0.05


def test_fits_of_another_adapter_are_not_compared_and_confidences_go_on() -> None:
    recent = Recent()
    for turn in range(400):
        recent.add(0.5 + turn / 800, turn > 100, True, turn / 400)
    before = recent.limits(0.1, 0.05)
    recent.measure_by("another")
    after = recent.limits(0.1, 0.05)
    assert before.fit > 0 and after.fit == -math.inf
    assert after.confidence == recent.limits(0.1, 0.0).confidence < 1.0
    for _ in range(40):
        recent.add(0.99, True, True, 5.0)
    assert recent.limits(0.1, 0.05).fit == 5.0 and recent.limits(0.1, 0.05).confidence < 0.9  # the older ones still count


def taught() -> Head:
    """Return a head that has learned four classes and folded the outcomes of rows like them."""
    head = Head(replace(OPTIONS, abstain_error=0.1, out_of_scope=0.05), fresh().features)
    x, labels = cloud(4, 60)
    enter(head, x, labels)
    snapshot = ready(head).snapshot()
    more, truth = cloud(4, 50, seed=3)
    said = opine(more, snapshot)
    for place, label in enumerate(truth):
        head.fold.update(said, place, snapshot.index_of(label), snapshot)
    return head


def test_what_fits_no_class_is_withheld_with_the_reason_and_the_scores() -> None:
    head = taught()
    inside, _ = cloud(4, 5, seed=9)
    strange = torch.nn.functional.normalize(torch.randn(20, inside.shape[1], generator=torch.Generator().manual_seed(5)), dim=1)
    known, unknown = decode(inside, head.snapshot()), decode(strange.half(), head.snapshot())
    assert sum(one.label is None for one in known) <= 3
    assert sum(one.label is None for one in unknown) >= 15
    withheld = next(one for one in unknown if one.label is None)
    assert withheld.reason is not None and withheld.reason.startswith("out of scope") and len(withheld.scores) == 4


def test_limits_come_back_with_a_heads_files() -> None:
    head = taught()
    twin = Head(head.options, head.features)
    twin.load_head(head.dump()["head"], "a version")
    assert twin.snapshot().limits == head.snapshot().limits and math.isfinite(head.snapshot().limits.fit)
    twin.adopt(Adapter(torch.eye(OPTIONS.dim)[:, :8], 16.0, {}))
    assert twin.snapshot().limits.fit == -math.inf  # similarities under another adapter say nothing of these
    assert twin.snapshot().limits.confidence == twin.fold.recent.limits(0.1, 0.0).confidence


def test_an_event_whose_class_was_new_counts_as_wrong_and_not_as_in_scope() -> None:
    head = taught()
    snapshot, x = head.snapshot(), cloud(1, 30, seed=4)[0]
    said, fold = opine(x, snapshot), Fold()
    for place in range(30):
        assert not fold.update(said, place, None, snapshot).right
    assert fold.recent.limits(0.1, 0.5).fit == -math.inf and fold.recent.limits(0.1, 0.0).confidence == NONE
    assert fold.temperature < 0  # so sure, and wrong


@pytest.mark.parametrize("count", [30, 300])
def test_at_most_the_stated_rate_of_what_is_new_is_answered(count: int) -> None:
    answered = []
    for seed in range(200):
        random = np.random.RandomState(seed)
        answered.append((random.randn(1000) >= near_limit(random.randn(count), 0.1)).mean())
    assert 0.05 < np.mean(answered) <= 0.105


def test_of_too_few_that_were_new_nothing_is_answered_and_the_reason_says_so() -> None:
    recent = Recent((0.9, False, False, 0.1 * place) for place in range(8))
    limits = recent.limits(0.0, 0.0, 0.1)
    assert limits.new == NONE and "takes 10 events" in (limits.reason(0.9, 5.0) or "")
    recent.add(0.9, False, False, 0.3)
    assert recent.limits(0.0, 0.0, 0.1).reason(0.9, 5.0) is None
    assert "the nearest is similar by 0.100" in (recent.limits(0.0, 0.0, 0.1).reason(0.9, 0.1) or "")


def test_what_was_new_is_kept_where_the_stream_has_long_been_known_over_a_file_and_another_adapter() -> None:
    recent = Recent((0.9, False, False, 0.1 * place) for place in range(20))
    limit = recent.limits(0.0, 0.0, 0.1).new
    for _ in range(2 * WINDOW):
        recent.add(0.9, True, True, 0.95)
    assert recent.limits(0.0, 0.0, 0.1).new == limit == Recent(recent.tensor().tolist()).limits(0.0, 0.0, 0.1).new
    recent.measure_by("another")
    assert recent.limits(0.0, 0.0, 0.1).new == limit  # as good as it gets, until new ones have come through it
    for place in range(20):
        recent.add(0.9, False, False, 0.01 * place)
    again = Recent(recent.tensor().tolist(), "another").limits(0.0, 0.0, 0.1).new
    assert recent.limits(0.0, 0.0, 0.1).new == again < 0.2
