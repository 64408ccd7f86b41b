"""Class means: exact sums of vectors per class, and the nearest-mean scores that decide about young classes.

float16 vectors are multiples of 2^-24, so float64 sums of them are exact in any order below 2^29, and a removed row
leaves no trace (NCM as in iCaRL, Rebuffi et al., 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptd.model.attention import Adapter

BLOCK = 512  # rows that are widened at once: they stay in the cache
SHRINK = 10.0  # rows' worth of pooled evidence in a class's estimated length
BLEND = 0.5  # share, in log, of the estimated true length against the observed one


@dataclass(frozen=True)
class Centres:
    """What nearest-mean scores need: ``cos(x - centre, direction_c)``, directions of estimated length."""

    centre: Tensor  # [dim]
    directions: Tensor  # [C, r]
    lengths: Tensor  # [C]: direction times length is the centred mean

    def scores(self, vectors: Tensor, adapter: Adapter) -> Tensor:
        """Return cosines [n, C] of vectors [n, dim] to the class means, both seen through the adapter."""
        z = _project(vectors.float() - self.centre, adapter)
        cosines: Tensor = z @ self.directions.T / z.norm(dim=1, keepdim=True).clamp(min=1e-9)
        return cosines


class ClassMeans:
    """Sums and counts per class."""

    def __init__(self, dim: int) -> None:
        self.sums = torch.zeros(0, dim, dtype=torch.float64)
        self.counts = torch.zeros(0, dtype=torch.int64)

    def add(self, vectors: Tensor, y: Tensor, classes: int, sign: int = 1) -> None:
        """Add (or with sign -1 remove) float16 vectors [n, dim] of classes [n]."""
        if classes > len(self.counts):
            self.sums = pad(self.sums, (0, 0, 0, classes - len(self.sums)))
            self.counts = pad(self.counts, (0, classes - len(self.counts)))
        for start in range(0, len(y), BLOCK):
            some = slice(start, start + BLOCK)
            self.sums.index_add_(0, y[some], vectors[some].double(), alpha=sign)
        self.counts.index_add_(0, y, torch.full_like(y, sign))

    def renumber(self, place: Tensor, classes: int) -> None:
        """Give class i the number place[i]."""
        sums, counts = torch.zeros(classes, self.sums.shape[1], dtype=torch.float64), torch.zeros(classes, dtype=torch.int64)
        sums[place[: len(self.counts)]], counts[place[: len(self.counts)]] = self.sums, self.counts
        self.sums, self.counts = sums, counts

    def copy(self) -> ClassMeans:
        """Return the same sums to go on from by themselves."""
        other = ClassMeans(self.sums.shape[1])
        other.sums, other.counts = self.sums.clone(), self.counts.clone()
        return other

    def shrink(self, classes: int) -> None:
        """Drop the classes behind the first ones; they have no rows."""
        self.sums, self.counts = self.sums[:classes].clone(), self.counts[:classes].clone()

    def centres(self, adapter: Adapter, classes: int) -> Centres:
        """Return centre and directions of the first classes, for scoring.

        The mean of n rows has squared length ``rho + (v - rho)/n`` (v: that of a row, rho: that of the true mean),
        so a young class's cosine comes out too small. Its length is replaced, half way in log, by an estimate of
        sqrt(rho) that is shrunk to the pooled one (James and Stein, 1961).
        """
        short = classes - len(self.counts)
        return centres(
            pad(self.sums, (0, 0, 0, max(0, short)))[:classes], pad(self.counts, (0, max(0, short)))[:classes], adapter
        )


def centres(sums: Tensor, counts: Tensor, adapter: Adapter) -> Centres:
    """Return `Centres` of float64 sums [C, dim] and counts [C]; classes without rows score 0."""
    seen = counts > 0
    n = counts.clamp(min=1).double()
    mean = sums / n[:, None]
    centre = mean[seen].mean(0) if bool(seen.any()) else mean.new_zeros(mean.shape[1])
    d = (mean - centre) * seen[:, None]
    v = 1.0 - float(centre @ centre)
    before = float((d * d).sum())
    d = _project(d.float(), adapter).double()
    v *= float((d * d).sum()) / max(before, 1e-9) if adapter.projection is not None else 1.0
    squared = (d * d).sum(1)
    pooled = float((n * squared - v)[seen].sum() / (n - 1)[seen].sum().clamp(min=1))
    pooled = min(max(pooled, 0.05 * v), max(v, 1e-9))
    rho = ((n * squared - v + SHRINK * pooled) / (n - 1 + SHRINK)).clamp(min=max(0.05 * v, 1e-12))
    length = squared.clamp(min=1e-12).pow(0.5 * (1 - BLEND)) * rho.pow(0.5 * BLEND)
    return Centres(centre.float(), (d / length[:, None]).float(), length.float())


def _project(vectors: Tensor, adapter: Adapter) -> Tensor:
    return vectors if adapter.projection is None else vectors @ adapter.projection
