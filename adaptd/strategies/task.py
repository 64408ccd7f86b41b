"""What a strategy is given: the network to train, which rows are new, which are remembered, and its bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from adaptd.model.attention import TrainableAttention


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
