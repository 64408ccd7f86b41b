"""Tuning: a copy of an encoder's upper blocks is trained to tell labels apart, with a direction for each.

The loss is the cross entropy of ``softmax(scale e.d)``, labels smoothed (Szegedy et al., 2016), over all rows that are given, the
remembered ones and the new ones alike: that is replay. The frozen blocks below run once, before. Directions begin as the mean of
their label's rows. In full, or by a method of `peft` whose weights are merged into the blocks at the end, so that what answers is
the same kind of file for every method: `lora` (Hu et al., 2022), `adalora` (Zhang et al., 2023), `ia3` (Liu et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from adaptd.errors import MissingExtra, TrainingFailed
from adaptd.model.encoder import mean, stacked, through

SCALE, SMOOTHING, DROPOUT = 20.0, 0.1, 0.1
WARM_UP = 0.1  # share of the steps in which the rate rises; then it falls linearly to zero
DIRECTIONS = 2e-3  # rate of the directions
GROUP = 8  # batches whose rows are sorted by length together
RATES = {"full": 3e-4, "lora": 2e-3, "adalora": 4e-3, "ia3": 1e-2}
MATRICES = ["query", "key", "value", "dense"]  # what a method of peft adapts
Method = Literal["full", "lora", "adalora", "ia3"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the blocks are tuned."""

    method: Method = "full"
    blocks: int = 2  # the upper ones
    epochs: int = 3
    batch: int = 64
    rank: int = 16  # of lora and adalora
    learning_rate: float = 0.0  # 0 = the method's own
    rows: int = 20_000  # most that are learned, drawn class by class

    def __post_init__(self) -> None:
        if self.method not in RATES:
            raise ValueError(f"method must be one of {', '.join(RATES)}, not {self.method!r}")
        for name in ("blocks", "epochs", "batch", "rank", "rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")
        if isinstance(self.learning_rate, bool) or not isinstance(self.learning_rate, int | float) or not self.learning_rate >= 0:
            raise ValueError(f"learning_rate must be a number that is not negative, not {self.learning_rate!r}")


def tune(blocks: Any, states: Sequence[Tensor], targets: Tensor, labels: int, how: Tuning, seed: int, device: str,
         progress: Callable[[float, str], None]) -> tuple[dict[str, Tensor], Tensor, list[float]]:
    """Train blocks on token states [t, width] of rows; return them by name, the directions [labels, width], the loss by epoch."""
    random = np.random.RandomState(seed)
    torch.manual_seed(seed)  # of dropout, and of what a method begins with
    steps = how.epochs * -(-len(states) // how.batch)
    directions = torch.nn.Parameter(_means(blocks.to(device), states, targets, labels, how.batch, device))
    tuner = _adapted(blocks, how, steps)
    for module in tuner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
    trained = [p for p in tuner.model.parameters() if p.requires_grad]
    groups = [{"params": trained, "weight_decay": 0.01}, {"params": [directions], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1.0)
    rates, losses, step = (how.learning_rate or RATES[how.method], DIRECTIONS), list[float](), 0
    tuner.model.train()
    for epoch in range(how.epochs):
        total = 0.0
        for rows in _batches(random, [len(one) for one in states], how.batch):
            share = min(1.0, (step + 1) / max(1.0, WARM_UP * steps)) * (1 - step / steps)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
            given, mask = stacked([states[row] for row in rows])
            vectors = mean(through(tuner.model, given.float().to(device), mask.to(device)), mask.to(device))
            scores = SCALE * vectors @ normalize(directions, dim=1).T
            loss = cross_entropy(scores, targets[rows].to(device), label_smoothing=SMOOTHING)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            step, total = step + 1, total + float(loss.detach()) * len(rows)
            tuner.stepped(step)
            progress(step / steps, f"epoch {epoch + 1} of {how.epochs}")
        losses.append(total / len(states))
        if losses[-1] != losses[-1]:
            raise TrainingFailed(f"{how.method}: the loss is not finite")
    weights = {name: tensor.detach().half().cpu() for name, tensor in tuner.merged().state_dict().items()}
    return weights, directions.detach().half().cpu(), losses


def _means(blocks: Any, states: Sequence[Tensor], targets: Tensor, labels: int, batch: int, device: str) -> Tensor:
    """Return the mean of each label's rows under the blocks as they are [labels, width]."""
    order = np.argsort([len(one) for one in states], kind="stable")
    sums = torch.zeros(labels, states[0].shape[1], device=device)
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start:start + batch].tolist()
            given, mask = stacked([states[row] for row in rows])
            vectors = mean(through(blocks.eval(), given.float().to(device), mask.to(device)), mask.to(device))
            sums.index_add_(0, targets[rows].to(device), vectors)
    return normalize(sums, dim=1)


def _batches(random: np.random.RandomState, lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the rows of an epoch in batches of like lengths, in random order."""
    order, by = random.permutation(len(lengths)), np.asarray(lengths)
    found = []
    for start in range(0, len(order), size * GROUP):
        some = order[start:start + size * GROUP]
        some = some[np.argsort(by[some], kind="stable")]
        found += [some[i:i + size].tolist() for i in range(0, len(some), size)]
    return [found[i] for i in random.permutation(len(found))]


class _Whole:
    """Blocks that are trained in full."""

    def __init__(self, blocks: Any) -> None:
        self.model = blocks.requires_grad_(True)

    def stepped(self, step: int) -> None:
        """Nothing is to do."""

    def merged(self) -> Any:
        """Return the blocks."""
        return self.model


class _Adapted(_Whole):
    """Blocks whose matrices carry what a method of peft trains."""

    def __init__(self, blocks: Any, kind: Any, config: Any) -> None:
        self._tuner = kind(blocks.requires_grad_(False), {"default": config}, "default")
        self.model = self._tuner.model

    def stepped(self, step: int) -> None:
        """Let a method that spends its rank where it counts do so."""
        if hasattr(self._tuner, "update_and_allocate"):
            self._tuner.update_and_allocate(step)

    def merged(self) -> Any:
        """Return the blocks with what was trained in their own weights."""
        return self._tuner.merge_and_unload()


def _adapted(blocks: Any, how: Tuning, steps: int) -> _Whole:
    if how.method == "full":
        return _Whole(blocks)
    try:
        import peft
    except ImportError:
        raise MissingExtra(f"consolidate.options method {how.method!r} needs peft",
                           hint='pip install "adaptd[peft]", or method = "full"') from None
    common: dict[str, Any] = {"target_modules": MATRICES}
    if how.method == "lora":
        return _Adapted(blocks, peft.LoraModel, peft.LoraConfig(r=how.rank, lora_alpha=2 * how.rank, lora_dropout=0.0, **common))
    if how.method == "ia3":
        return _Adapted(blocks, peft.IA3Model, peft.IA3Config(feedforward_modules=["dense"], **common))
    config = peft.AdaLoraConfig(init_r=how.rank, target_r=max(1, how.rank // 2), lora_alpha=2 * how.rank, tinit=steps // 5,
                                tfinal=steps // 5, deltaT=max(1, steps // 50), total_step=max(steps, 3), **common)
    return _Adapted(blocks, peft.AdaLoraModel, config)


