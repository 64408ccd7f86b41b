"""What every strategy must do, shown on a few Gaussian classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import nll_loss, normalize

from adaptd.interfaces import Strategy
from adaptd.model import files
from adaptd.model.attention import Adapter, TrainableAttention
from adaptd.strategies.task import Task

DIM, CLASSES = 32, 6
OLD = 4  # the first so many classes, where a test has old and new ones


def gaussians(each: int, classes: int = CLASSES, seed: int = 0, spread: float = 1.2) -> tuple[Tensor, Tensor]:
    """Return unit vectors [n, DIM] at 16 bits and their classes; half of the features say nothing."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99)) * (torch.arange(DIM) < DIM // 2)
    targets = torch.arange(classes).repeat_interleave(each)
    vectors = means[targets] + spread * torch.randn(len(targets), DIM, generator=generator)
    return normalize(vectors, dim=1).half(), targets


def apart(each: int, seed: int) -> tuple[Tensor, Tensor]:
    """As `gaussians`, but new classes differ in those features that say nothing of the old ones: a cause to forget."""
    means = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(7))
    means[:OLD, DIM // 2:], means[OLD:, :DIM // 2] = 0.0, 0.0
    targets = torch.arange(CLASSES).repeat_interleave(each)
    vectors = means[targets] + torch.randn(len(targets), DIM, generator=torch.Generator().manual_seed(seed))
    return normalize(vectors, dim=1).half(), targets


def make_task(new: int, vectors: Tensor, targets: Tensor, start: Adapter | None = None,
              words: list[str] | None = None) -> Task:
    """Return a task whose last `new` rows are the experience."""
    labels = [f"class {number}" for number in range(CLASSES)]
    network = TrainableAttention(vectors, targets, CLASSES, start or Adapter(), labels, 16, 500, 0.1,
                                 torch.Generator().manual_seed(0))
    said = [] if words is None else words
    return Task(network=network, new=torch.arange(len(targets) - new, len(targets)),
                old=torch.arange(len(targets) - new), device="cpu", seed=0, progress=lambda _, text: said.append(text))


@torch.no_grad()
def loss_of(adapter: Adapter, rows: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return loss and accuracy of an adapter on rows that are not in the memory it attends to."""
    vectors, targets = torch.cat([rows[0], memory[0]]), torch.cat([rows[1], memory[1]])
    network = TrainableAttention(vectors, targets, CLASSES, adapter, list(adapter.log_value) or [""] * CLASSES, 16,
                                 len(targets), 0.0, torch.Generator().manual_seed(0)).eval()
    said = network(torch.arange(len(rows[1])))
    return float(nll_loss(said, rows[1])), float((said.argmax(1) == rows[1]).float().mean())


def check_strategy(strategy: Strategy) -> None:
    """Learn new classes beside old ones: finite, better than before, reported, and the same bytes again."""
    memory, (vectors, targets) = gaussians(40), gaussians(50, seed=1)
    unseen = vectors[targets >= CLASSES - 2], targets[targets >= CLASSES - 2]  # more of the new classes
    words: list[str] = []
    first = make_task(80, *memory, words=words)
    before = loss_of(first.network.adapter(), unseen, memory)[0]
    numbers = strategy.adapt(first)
    adapter = first.network.adapter()
    assert all(value == value for value in numbers.values()), "numbers to log are finite"
    assert loss_of(adapter, unseen, memory)[0] < before, "rows it never saw are answered better"
    assert words, "progress is said"
    again = make_task(80, *memory)
    strategy.adapt(again)
    assert files.dump_adapter(again.network.adapter()) == files.dump_adapter(adapter), "same task, same bytes"


def lost_and_learned(champion: Strategy, strategy: Strategy, seed: int) -> tuple[float, float]:
    """Return how much the loss rises on unseen old rows, and falls on unseen new ones, by adapting a champion."""
    memory, asked = apart(40, seed), apart(100, 1000 + seed)
    old, kept = memory[1] < OLD, asked[1] < OLD
    task = make_task(int(old.sum()), memory[0][old], memory[1][old])
    champion.adapt(task)
    before = task.network.adapter()
    task = make_task(int((~old).sum()), *memory, start=before)
    strategy.adapt(task)
    after = task.network.adapter()
    on_old, on_new = ((asked[0][rows], asked[1][rows]) for rows in (kept, ~kept))
    return (loss_of(after, on_old, memory)[0] - loss_of(before, on_old, memory)[0],
            loss_of(before, on_new, memory)[0] - loss_of(after, on_new, memory)[0])
