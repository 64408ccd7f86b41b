"""What a strategy is given: the network to train, which rows are new, which are remembered, and where it had come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from adaptd.model.attention import TrainableAttention


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a training had come to when its process ended, as named tensors and facts; at the beginning both are empty."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One adaptation. Rows are numbers into `network.vectors`; held-out rows are not among them."""

    network: TrainableAttention
    new: Tensor  # rows of the experience, oldest first
    old: Tensor  # remembered rows: what replay draws from, what EWC protects
    device: str
    seed: int
    progress: Callable[[float, str], None]  # share done, words
    losses: list[float] = field(default_factory=list)  # a strategy appends one an epoch: for who draws the course
    found: Place = Place()  # where to go on from; a strategy that cannot begins anew
    keep: Callable[[Place], None] = lambda place: None  # what keeps such a place, whole or not at all
