"""What a person is asked about: uncertain, dense and diverse; where nothing is known, what is typical; duplicates once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaptd.bench.learning_cost import enter, new_head
from adaptd.model import asking

DIM = 48


def clusters(sizes: Sequence[int], spread: float = 0.4, seed: int = 0) -> tuple[Tensor, list[int]]:
    """Return unit vectors about as many far centres, and the cluster of each."""
    generator = torch.Generator().manual_seed(seed)
    of = [cluster for cluster, size in enumerate(sizes) for _ in range(size)]
    noise = torch.randn(len(of), DIM, generator=generator) * (spread / DIM**0.5)
    return normalize(torch.eye(DIM)[of] + noise, dim=1).half(), of


def places(chosen: Sequence[asking.Choice]) -> list[int]:
    return [one.place for one in chosen]


def test_where_nothing_is_known_each_cluster_is_asked_once_the_largest_first() -> None:
    vectors, of = clusters([20, 40, 10, 30])
    chosen = asking.choose(vectors, np.ones(100, np.float32), 4)
    assert [of[place] for place in places(chosen)] == [1, 3, 0, 2]
    assert [one.expected for one in chosen] == sorted((one.expected for one in chosen), reverse=True)
    first = chosen[0]
    assert 20 < first.expected <= 40 and 30 < first.like < 40


def test_what_is_typical_of_its_cluster_comes_before_what_lies_at_its_edge() -> None:
    vectors, _ = clusters([30])
    edge = normalize(vectors[:1].float() + 0.8 * torch.eye(DIM)[5], dim=1).half()
    [first] = asking.choose(torch.cat([edge, vectors]), np.ones(31, np.float32), 1)
    assert first.place != 0


def test_of_equally_dense_places_the_uncertain_one_comes_first_and_a_dense_one_before_a_lone_one() -> None:
    vectors, of = clusters([20, 20, 1])
    wrong = np.array([(0.01, 0.4, 0.9)[cluster] for cluster in of], np.float32)
    assert [of[place] for place in places(asking.choose(vectors, wrong, 3))] == [1, 2, 0]


def test_duplicates_are_asked_once() -> None:
    vectors, _ = clusters([1, 1, 1])
    chosen = asking.choose(vectors.repeat(4, 1), np.ones(12, np.float32), 12)
    assert len(chosen) == 3 == len({place % 3 for place in places(chosen)})
    assert {one.like for one in chosen} == {3}


def test_the_lazy_choice_is_the_greedy_one() -> None:
    vectors, _ = clusters([8, 5, 9, 3], spread=1.2, seed=3)
    wrong = np.random.RandomState(0).rand(25).astype(np.float32)
    kernel, covered, expected = asking.alike(vectors), np.zeros(25, np.float32), []
    for _ in range(10):
        gains = np.maximum(kernel - covered, 0) @ wrong
        expected.append(int(gains.argmax()))
        covered = np.maximum(covered, kernel[expected[-1]])
    assert places(asking.choose(vectors, wrong, 10)) == expected


def test_an_empty_pool_and_a_pool_of_one() -> None:
    assert asking.choose(torch.zeros(0, DIM), np.zeros(0, np.float32), 5) == []
    [only] = asking.choose(clusters([1])[0], np.ones(1, np.float32), 5)
    assert (only.place, only.like) == (0, 0) and 0.9 < only.expected <= 1


def test_what_fits_less_than_what_was_labelled_lately_is_novel_and_its_confidence_does_not_count() -> None:
    recent = np.column_stack([np.full(100, 0.9), np.ones(100), np.ones(100), np.linspace(0.5, 1.5, 100)])
    found = asking.doubts(np.array([0.9, 0.9], np.float32), np.array([1.0, 0.1], np.float32), recent)
    assert found.novelty[0] == 0 and found.novelty[1] > 0.7
    assert found.wrong[0] == pytest.approx(1 - 0.9 * 102 / 104) and found.wrong[1] > 0.7


def test_confidence_counts_as_far_as_outcomes_have_shown_it() -> None:
    recent = np.column_stack([np.full(10, 1.0), np.ones(10), np.ones(10), np.ones(10)])
    sure, fit = np.ones(3, np.float32), np.zeros(3, np.float32)
    few = asking.doubts(sure, fit, recent)
    assert few.novelty.tolist() == [0, 0, 0] and few.wrong == pytest.approx(1 / 7)
    assert asking.doubts(sure, fit, recent[:0]).wrong == pytest.approx(0.5)
    vectors, _ = clusters([5, 5])
    assert len(asking.choose(vectors, asking.doubts(np.ones(10, np.float32), np.ones(10, np.float32), recent).wrong, 10)) == 10


def test_a_heads_guesses_are_its_answers_whatever_the_chunks() -> None:
    head = new_head(DIM)
    vectors, of = clusters([30, 30, 30])
    enter(head, vectors, [f"class {cluster}" for cluster in of])
    head.solve()
    head.index()
    asked, truth = clusters([40, 40, 40], seed=7)
    found = asking.guess(asked, head.snapshot())
    assert len(found.decisions) == 120 and (found.confidence == [max(one.scores.values()) for one in found.decisions]).all()
    assert [one.target for one in found.decisions] == [f"class {cluster}" for cluster in truth]
