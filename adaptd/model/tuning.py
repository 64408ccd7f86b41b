"""Tuning: a copy of an encoder's upper blocks is trained to tell labels apart, with a direction for each.

The loss is the cross entropy of ``softmax(scale e.d)``, labels smoothed (Szegedy et al., 2016), over all rows that are given, the
remembered ones and the new ones alike: that is replay. The frozen blocks below run once, before. Directions begin as the mean of
their label's rows. In full, or by a method of `peft` whose weights are merged into the blocks at the end: `lora` (Hu et al.,
2022), `adalora` (Zhang et al., 2023), `ia3` (Liu et al., 2022); or blocks stay as they are behind learned tokens: `prompt`,
`prefix` (`adaptd.model.prompted`). `distil` adds the divergence from what a teacher said (learning without forgetting; Li and
Hoiem, 2016); `average` ends with the mean of the weights of the last steps (Izmailov et al., 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

from adaptd.errors import MissingExtra, TrainingFailed
from adaptd.model.encoder import mean, stacked, through
from adaptd.model.prompted import Prompted

SCALE, SMOOTHING, DROPOUT = 20.0, 0.1, 0.1
WARM_UP = 0.1  # share of the steps in which the rate rises; then it falls linearly to zero
DIRECTIONS = 2e-3  # rate of the directions
GROUP = 8  # batches whose rows are sorted by length together
MOST_TOKENS = 256
SOFT = 2.0  # temperature of what is distilled
RATES = {"full": 3e-4, "lora": 2e-3, "adalora": 4e-3, "ia3": 1e-2, "prefix": 1e-2, "prompt": 1e-2}
MATRICES = ["query", "key", "value", "dense"]  # what a method of peft adapts
Method = Literal["full", "lora", "adalora", "ia3", "prefix", "prompt"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the blocks are tuned."""

    method: Method = "full"
    blocks: int = 2  # the upper ones
    epochs: int = 3
    batch: int = 64
    rank: int = 16  # of lora and adalora
    tokens: int = 16  # learned ones, of prefix (so many for each block) and prompt
    learning_rate: float = 0.0  # 0 = the method's own
    distil: float = 0.0  # weight of what the champion's blocks, or else the frozen ones, said of the labels that they know
    average: float = 0.0  # share of the steps, the last ones, whose weights (of lora: factors) are averaged
    rows: int = 20_000  # most that are learned, drawn class by class

    def __post_init__(self) -> None:
        if self.method not in RATES:
            raise ValueError(f"method must be one of {', '.join(RATES)}, not {self.method!r}")
        for name in ("blocks", "epochs", "batch", "rank", "tokens", "rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number, at least 1, not {value!r}")
        if self.tokens > MOST_TOKENS:
            raise ValueError(f"tokens must be at most {MOST_TOKENS}, not {self.tokens}")
        if self.average and self.method == "adalora":
            raise ValueError("average is not for adalora: rank that it has taken away would come back")
        for name, most in (("learning_rate", math.inf), ("distil", math.inf), ("average", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                limit = "" if most == math.inf else f", nor above {most:g}"
                raise ValueError(f"{name} must be a number that is not negative{limit}, not {value!r}")


def tune(blocks: Any, states: Sequence[Tensor], targets: Tensor, labels: int, how: Tuning, seed: int, device: str,
         progress: Callable[[float, str], None], taught: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor, list[float]]:
    """Train blocks on token states [t, width] of rows; return them by name, the directions [labels, width], the loss by epoch.

    `taught`: the champion's scores [n, labels], -inf for labels that it does not know; without them the frozen blocks teach.
    """
    random = np.random.RandomState(seed)
    torch.manual_seed(seed)  # of dropout, and of what a method begins with
    steps = how.epochs * -(-len(states) // how.batch)
    before = _vectors(blocks.to(device), states, how.batch, device)
    means = normalize(torch.zeros(labels, before.shape[1], device=device).index_add_(0, targets.to(device), before), dim=1)
    directions = torch.nn.Parameter(means.clone())
    tuner = _adapted(blocks, before.shape[1], how, steps)
    for module in tuner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
    trained = [p for p in tuner.model.parameters() if p.requires_grad]
    groups = [{"params": trained, "weight_decay": 0.01}, {"params": [directions], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1.0)
    rates, losses, step = (how.learning_rate or RATES[how.method], DIRECTIONS), list[float](), 0
    average = _Average([*trained, directions], from_step=steps - round(how.average * steps))
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
            if how.distil:
                teacher = SCALE * before[rows] @ means.T if taught is None else taught[rows].to(device)
                loss = loss + how.distil * _distilled(scores, teacher)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            step, total = step + 1, total + float(loss.detach()) * len(rows)
            tuner.stepped(step)
            average.stepped(step)
            progress(step / steps, f"epoch {epoch + 1} of {how.epochs}")
        losses.append(total / len(states))
        if losses[-1] != losses[-1]:
            raise TrainingFailed(f"{how.method}: the loss is not finite")
    average.take()
    weights = {name: tensor.detach().half().cpu() for name, tensor in tuner.merged().state_dict().items()}
    return weights, directions.detach().half().cpu(), losses


def _vectors(blocks: Any, states: Sequence[Tensor], batch: int, device: str) -> Tensor:
    """Return what the blocks as they are make of rows [n, width]."""
    order = np.argsort([len(one) for one in states], kind="stable")
    vectors = torch.empty(len(states), states[0].shape[1], device=device)
    with torch.no_grad():
        for start in range(0, len(order), batch):
            rows = order[start:start + batch].tolist()
            given, mask = stacked([states[row] for row in rows])
            vectors[rows] = mean(through(blocks.eval(), given.float().to(device), mask.to(device)), mask.to(device))
    return vectors


def _distilled(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return the divergence of scores [b, labels] from a teacher's, among the labels that it knows."""
    known = teacher.isfinite().all(0)
    if not bool(known.any()):
        return scores.new_zeros(())
    mine, theirs = log_softmax(scores[:, known] / SOFT, dim=1), softmax(teacher[:, known] / SOFT, dim=1)
    return SOFT**2 * kl_div(mine, theirs, reduction="batchmean")


def _batches(random: np.random.RandomState, lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the rows of an epoch in batches of like lengths, in random order."""
    order, by = random.permutation(len(lengths)), np.asarray(lengths)
    found = []
    for start in range(0, len(order), size * GROUP):
        some = order[start:start + size * GROUP]
        some = some[np.argsort(by[some], kind="stable")]
        found += [some[i:i + size].tolist() for i in range(0, len(some), size)]
    return [found[i] for i in random.permutation(len(found))]


class _Average:
    """The mean of weights over the last steps; of none it is nothing."""

    def __init__(self, weights: Sequence[Tensor], from_step: int) -> None:
        self._weights, self._from, self._count = weights, from_step, 0
        self._sums: list[Tensor] = []

    def stepped(self, step: int) -> None:
        """Take a step's weights in."""
        if step > self._from:
            self._sums = self._sums or [torch.zeros_like(one) for one in self._weights]
            torch._foreach_add_(self._sums, [one.detach() for one in self._weights])
            self._count += 1

    def take(self) -> None:
        """Let the weights be their mean."""
        for weights, total in zip(self._weights, self._sums, strict=False):  # there are none where no step was taken in
            weights.data.copy_(total / self._count)


class _Whole:
    """Blocks that are trained in full."""

    def __init__(self, blocks: Any) -> None:
        self.model = blocks.requires_grad_(True)

    def stepped(self, step: int) -> None:
        """Nothing is to do."""

    def merged(self) -> Any:
        """Return the blocks."""
        return self.model


class _Behind(_Whole):
    """Blocks behind learned tokens, which alone are trained."""

    def __init__(self, blocks: Any, shape: Sequence[int]) -> None:
        self.model = Prompted(blocks.requires_grad_(False), shape).to(next(blocks.parameters()).device)


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


def _adapted(blocks: Any, width: int, how: Tuning, steps: int) -> _Whole:
    if how.method == "full":
        return _Whole(blocks)
    if how.method in ("prefix", "prompt"):
        return _Behind(blocks, (1 if how.method == "prompt" else len(blocks), how.tokens, width))
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


