"""The policies of a full memory: one contract for all, and what each of them is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from adaptd.errors import BadConfig
from adaptd.interfaces import MemoryCandidates, MemoryPolicy
from adaptd.plugins import build, collect, load
from adaptd.policies import Balanced, Drift, Herding, Newest, Reservoir, register_memory_policies
from adaptd.retained import Bound, Floats, Ints, Retained, priority
from adaptd.testing import check_policy


class Rows:
    """Rows with a class and a vector each."""

    def __init__(self, targets: Sequence[int], vectors: Floats) -> None:
        self.targets, self.vectors = targets, vectors

    def vectors_of(self, rows: Sequence[int]) -> Floats:
        return self.vectors[list(rows)]

    def order_of(self, rows: Sequence[int]) -> Ints:
        return np.array(rows, dtype=np.int64)

    def target_of(self, row: int) -> int:
        return self.targets[row]

    def mean_of(self, target: int) -> Floats:
        mean: Floats = self.vectors[np.array(self.targets) == target].mean(0)
        return mean


def kept(policy: MemoryPolicy, rows: Rows, capacity: int, per_class: int = 0) -> list[int]:
    """Return the rows that stay when all have come, in order."""
    retained, left = Retained(rows), set[int]()
    ranks = np.random.default_rng(1).integers(0, 1 << 63, len(rows.targets)).tolist()
    bound = Bound(capacity=capacity, per_class=per_class, policy=policy)
    for row, target in enumerate(rows.targets):
        left.add(row)
        retained.add(row, target, ranks[row])
        for gone in retained.excess(bound, row, target, ranks[row], row + 1):
            retained.remove(gone, rows.targets[gone], ranks[gone])
            left.remove(gone)
    return sorted(left)


def of(targets: Sequence[int], seed: int = 0) -> Rows:
    vectors = np.random.default_rng(seed).normal(size=(len(targets), 16)) + np.eye(16)[list(targets)]
    return Rows(targets, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@pytest.mark.parametrize("kind", register_memory_policies(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("newest", [1, 3, 10])
def test_every_policy_keeps_the_contract(kind: type[Newest], newest: int) -> None:
    check_policy(kind(newest=newest))


def test_the_built_in_policies_come_through_the_plugins_door_and_refuse_what_cannot_be() -> None:
    kinds = collect(load("adaptd.learner", []), "register_memory_policies")
    assert set(kinds) == {"reservoir", "balanced", "herding", "drift"}
    for options in ({"newest": 0}, {"newest": True}, {"newest": 1.5}, {"size": 3}):
        with pytest.raises(BadConfig, match="newest|size"):
            build(kinds["drift"], options, "memory.options")


@dataclass(frozen=True, kw_only=True)
class Moody:
    """Chooses by how often it was asked."""

    name: ClassVar[str] = "moody"
    by_class: ClassVar[bool] = True
    newest: int = 1
    asked: list[int]

    def choose(self, rows: MemoryCandidates) -> int:
        self.asked.append(1)
        return len(self.asked) % len(rows.order)


def test_a_policy_with_a_memory_of_its_own_fails_the_contract() -> None:
    with pytest.raises(AssertionError, match="moody: the same rows in the same order"):
        check_policy(Moody(asked=[]))


def test_a_reservoir_keeps_the_shares_of_the_classes_and_the_balanced_one_makes_them_equal() -> None:
    rows = of([0 if i % 10 else 1 for i in range(2000)])
    shares = [np.bincount([rows.targets[row] for row in kept(policy, rows, 200)]) for policy in (Reservoir(), Balanced())]
    assert 150 <= shares[0][0] <= 190 and shares[0].sum() == 200
    assert shares[1].tolist() == [100, 100]


def test_a_reservoir_is_a_sample_of_all_times_but_for_the_newest() -> None:
    left = kept(Reservoir(newest=1), of([0] * 4000), 400)
    quarters = np.histogram(left, bins=4, range=(0, 4000))[0]
    assert quarters.min() >= 70 and quarters.max() <= 130  # 100 expected, sigma 8.2


def test_herding_keeps_the_mean_better_than_chance() -> None:
    rows = of([0] * 600)
    away = [np.linalg.norm(rows.vectors[kept(policy, rows, 30)].mean(0) - rows.mean_of(0)) for policy in
            (Herding(newest=1), Balanced(newest=1))]
    assert away[0] < 0.3 * away[1]


def test_drift_keeps_more_of_what_is_new_and_the_mode_of_long_ago_too() -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 16)) * 0.1
    vectors[:1000, 0] += 1.0
    vectors[1000:, 1] += 1.0
    rows = Rows([0] * 3000, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    drift, balanced = (np.array(kept(policy, rows, 60)) for policy in (Drift(), Balanced()))
    assert (drift >= 2700).sum() > 2 * (balanced >= 2700).sum()
    assert (drift < 1000).sum() >= 5


def test_with_more_classes_than_room_the_one_that_has_not_come_for_longest_goes() -> None:
    assert kept(Balanced(), of([i % 16 for i in range(64)]), 10) == list(range(54, 64))


def test_the_priority_comes_from_other_bits_than_the_holdouts_choice() -> None:
    assert priority(b"\0" * 8 + b"\1" * 8) == int.from_bytes(b"\1" * 8, "big") and priority(b"") == 0
