"""The built-in policies of a memory that is full: which of the rows it may evict goes.

All keep each class's newest rows, whatever they choose. What is evicted stays in the head's sums and on the disk: it is
only not retrieved, nor replayed, any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from adaptd.hookspecs import hookimpl
from adaptd.interfaces import MemoryCandidates, MemoryPolicy


@dataclass(frozen=True, kw_only=True)
class Newest:
    """What all policies share."""

    newest: int = 10  # rows of a class that never go, up to half of its share of the capacity

    def __post_init__(self) -> None:
        if isinstance(self.newest, bool) or not isinstance(self.newest, int) or self.newest < 1:
            raise ValueError("newest must be a whole number, at least 1")


@dataclass(frozen=True, kw_only=True)
class Reservoir(Newest):
    """A uniform sample of all rows (Vitter, 1985), as the rows of lowest random priority: classes keep their shares."""

    name: ClassVar[str] = "reservoir"
    by_class: ClassVar[bool] = False

    def choose(self, rows: MemoryCandidates) -> int:
        """Let the row of the highest priority go."""
        return int(rows.priority.argmax())


@dataclass(frozen=True, kw_only=True)
class Balanced(Reservoir):
    """Equal shares for all classes, each a uniform sample of its rows (CBRS; Chrysakis and Moens, 2020)."""

    name: ClassVar[str] = "balanced"
    by_class: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Herding(Newest):
    """Equal shares; a class's rows keep the mean of all that were learned (Welling, 2009; iCaRL, Rebuffi et al., 2017)."""

    name: ClassVar[str] = "herding"
    by_class: ClassVar[bool] = True

    def choose(self, rows: MemoryCandidates) -> int:
        """Let the row go without which the mean of the rest is nearest to the class's: ``argmin |(n - 1) m - S + x|``."""
        total, n = rows.kept
        away = np.round(((n - 1) * rows.mean - total) * 2.0**20) / 2.0**20  # on a grid, so that products are exact
        vectors = rows.vectors
        return int((2.0 * (vectors @ away) + np.einsum("ij,ij->i", vectors, vectors)).argmin())


@dataclass(frozen=True, kw_only=True)
class Drift(Newest):
    """Equal shares; a class's rows thin out with age, one octave as many as the next, and keep what nothing else shows.

    Density falls with age, as in a biased reservoir (Aggarwal, 2006), but slower than exponentially, so that modes of
    long ago stay. In the fullest octave of ages the row goes that another one represents best.
    """

    name: ClassVar[str] = "drift"
    by_class: ClassVar[bool] = True

    def choose(self, rows: MemoryCandidates) -> int:
        """Let the older of the two nearest rows of the fullest octave go."""
        octave = np.frexp((rows.now - rows.order).astype(np.float64))[1]
        names, counts = np.unique(octave, return_counts=True)
        full = np.flatnonzero(octave == names[len(counts) - 1 - counts[::-1].argmax()])
        vectors = rows.vectors
        products = np.stack([vectors @ vectors[row] for row in full])  # few and small: BLAS would start threads for one product
        near = 2.0 * products - np.einsum("ij,ij->i", vectors, vectors)  # minus the squared distance, but for a constant
        near[np.arange(len(full)), full] = -np.inf
        near[rows.order[full][:, None] > rows.order[None, :]] = -np.inf  # the newer of two stands for both
        best = near.max(1)
        return int(full[best.argmax()]) if np.isfinite(best).any() else int(full[0])


@hookimpl
def register_memory_policies() -> Iterable[type[MemoryPolicy]]:
    """Offer the built-in policies."""
    return [Reservoir, Balanced, Herding, Drift]
