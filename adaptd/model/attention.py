"""Attention over memory: ``a = softmax(scale q.k + log v[label]) V`` with ``q = W_Q x, k = W_K x``.

Scaled dot-product attention (Vaswani et al., 2017) whose keys are the remembered vectors and whose values are
their one-hot targets times W_V, a diagonal: how much a label's examples count. The `Adapter` is what adaptation
trains: rank 256, under 1 MB a matrix at 16 bits, W_Q = W_K. Before any adaptation W is the identity.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from adaptd.model.upper import Upper
from adaptd.model.weights import Weights

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
SCALE = 40.0  # before adaptation
# Prior trust in ridge, attention, attention to the newest. Trained attention is as good as the ridge; what is newest is
# better only where the world moves, which the stream has to show.
UNTRAINED, TRAINED = (0.75, 0.20, 0.05), (0.45, 0.45, 0.10)
CONSOLIDATED = 0.35  # of it, prior trust in tuned upper blocks where there are some
BALANCE, BALANCE_MOST = 100.0, 20.0
NEWER = 4.0  # newer neighbours that halve a neighbour's weight, for the attention that prefers the newest


@dataclass(frozen=True)
class Adapter:
    """W_Q = W_K [dim, rank] (None: the identity), the scale, W_V's logarithm per label name; tuned upper blocks, if any.

    Of a head whose texts are written it has only what the generator was trained to, if it was.
    """

    projection: Tensor | None = None
    scale: float = SCALE
    log_value: dict[str, float] = field(default_factory=dict)
    upper: Upper | None = None
    weights: Weights | None = None

    @property
    def prior(self) -> tuple[float, ...]:
        """The trust that a class begins with, per expert: attention that was never trained is the weaker one."""
        prior = UNTRAINED if self.projection is None else TRAINED
        return prior if self.upper is None else (*((1 - CONSOLIDATED) * one for one in prior), CONSOLIDATED)

    @cached_property
    def digest(self) -> str:
        """What similarities under it are known by; "" for those of the vectors themselves."""
        return "" if self.projection is None else hashlib.blake2b(self.projection.numpy().tobytes(), digest_size=8).hexdigest()

    def same(self, other: Adapter) -> bool:
        """Say whether both give the same answers."""
        if (self.projection is None) != (other.projection is None):
            return False
        equal = self.projection is None or other.projection is None or torch.equal(self.projection, other.projection)
        equal = equal and self.scale == other.scale and self.log_value == other.log_value
        equal = equal and (other.weights is None if self.weights is None else self.weights.same(other.weights))
        return equal and (other.upper is None if self.upper is None else self.upper.same(other.upper))

    def rank(self, dim: int) -> int:
        """Return the dimension of keys."""
        return dim if self.projection is None else self.projection.shape[1]

    def keys(self, vectors: Tensor) -> Tensor:
        """Project stored vectors [n, dim] to keys [n, rank].

        In float64 and rounded to float16, so that a key has the same bits whatever it was projected together with.
        """
        if self.projection is None:
            return vectors.half()
        return normalize(vectors.double() @ self.projection.double(), dim=1).half()

    def queries(self, vectors: Tensor) -> Tensor:
        """Project vectors [n, dim] to queries [n, rank], float32."""
        return vectors.float() if self.projection is None else normalize(vectors.float() @ self.projection, dim=1)

    def values(self, labels: Sequence[str]) -> Tensor:
        """Return the logarithm of W_V's diagonal for these labels; a label it never saw counts 1."""
        return torch.tensor([self.log_value.get(label, 0.0) for label in labels])


def balance(counts: Tensor) -> Tensor:
    """Return the logarithm of what a row of each class [C] counts: 100/n in a class of n < 100 rows, 20 at most."""
    return (BALANCE / counts.clamp(min=1).float()).clamp(1.0, BALANCE_MOST).log()


def newest_first(born: Ints) -> Floats:
    """Rank neighbours [b, k] by birth: 0 the newest. Recency is measured where the query is: a quiet region does not age."""
    order = np.argsort(-born, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable").astype(np.float32)


def weigh(score: Floats, missing: Bools, rank: Floats | None = None) -> Floats:
    """Return the attention weights [b, k] over retrieved neighbours; `missing` slots get none; `rank` prefers the newest."""
    if rank is not None:
        score = score - rank * np.float32(math.log(2.0) / NEWER)
    return softmax(np.where(missing, np.float32(-1e9), score))


def attend(weight: Floats, labels: npt.NDArray[np.integer[Any]], classes: int) -> Floats:
    """Return the probabilities [b, classes] that weights [b, k] over neighbours' labels give."""
    place = labels + classes * np.arange(len(labels))[:, None]
    summed = np.bincount(place.ravel(), weight.ravel(), classes * len(labels))
    return summed.reshape(len(labels), classes).astype(np.float32)


def softmax(x: Floats) -> Floats:
    """Return the softmax over the last axis. (SciPy's takes ten times as long on one row, and an answer needs several.)"""
    e = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))  # also of no neighbours at all
    share: Floats = e / e.sum(-1, keepdims=True)
    return share


def log_softmax(x: Floats) -> Floats:
    """Return the logarithm of the softmax over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    logs: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


class TrainableAttention(torch.nn.Module):
    """The adapter as parameters: rows of a task in, log-probabilities over classes out.

    A forward takes row numbers [b], not vectors, so that a row never attends to itself. Its keys are a sample of
    the task's rows, drawn anew at each call.
    """

    vectors: Tensor
    targets: Tensor

    def __init__(self, vectors: Tensor, targets: Tensor, classes: int, start: Adapter, labels: Sequence[str], rank: int,
                 memory: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors, persistent=False)  # 16 bits, as stored: what is used is widened
        self.register_buffer("targets", targets, persistent=False)
        self.classes, self.labels = classes, tuple(labels)
        self.memory, self.dropout, self.generator = memory, dropout, generator
        projection = start.projection if start.projection is not None else principal(vectors, rank)
        self.projection = torch.nn.Parameter(projection.float().clone())
        scale = start.scale if start.projection is not None else 16.0
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))
        self.log_value = torch.nn.Parameter(start.values(labels))

    def forward(self, rows: Tensor) -> Tensor:
        """Return log-probabilities [b, classes] of task rows [b]."""
        x = self.vectors[rows].float()
        if self.training:
            kept = torch.rand(x.shape, generator=self.generator).to(x.device) >= self.dropout
            x = x * kept / (1 - self.dropout)
        keys = torch.randperm(len(self.targets), generator=self.generator)[:self.memory].to(rows.device)
        targets = self.targets[keys]
        q = normalize(x @ self.projection, dim=1)
        k = normalize(self.vectors[keys].float() @ self.projection, dim=1)
        score = q @ k.T * self.log_scale.exp() + self.log_value[targets]
        weight: Tensor = score.masked_fill(rows[:, None] == keys[None, :], -1e9).softmax(1)
        return torch.log(weight @ one_hot(targets, self.classes).float() + 1e-6)

    def adapter(self) -> Adapter:
        """Return what was trained."""
        values = dict(zip(self.labels, self.log_value.detach().cpu().tolist(), strict=True))
        return Adapter(self.projection.detach().cpu().float(), float(self.log_scale.detach().exp()), values)


def principal(vectors: Tensor, rank: int) -> Tensor:
    """Return the leading right singular vectors [dim, rank]: the attention then equals the unadapted one."""
    gram = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for block in torch.split(vectors, 4096):
        x = block.double().cpu()
        gram.addmm_(x.T, x)
    basis: Tensor = torch.linalg.eigh(gram)[1]
    return basis.flip(1)[:, :rank].float().contiguous()
