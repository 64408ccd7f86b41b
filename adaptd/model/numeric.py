"""Numbers: an encoder of numbers, categories and gaps that needs no statistics of the stream.

Each field x is read at many scales at once, u = asinh(x), ``φ(x) = [a_k cos(ω_k u), a_k sin(ω_k u)]`` with ω_k one per octave,
drawn at random within it (random Fourier features: Rahimi & Recht, 2007; per number: Gorishniy et al., 2022). Two values are
alike by ``Σ a_k² cos(ω_k (u - v))``, which falls with the logarithm of their distance: whatever a field's unit and spread are,
some octaves tell its values apart, and none has to be fitted before the first event. A later fit would change what vectors
mean, and they are kept as truth. Which octave and field count is what an adaptation learns (W_Q = W_K). A category is a
random direction of its own, a gap adds nothing. Fields share the vector by a count sketch (Weinberger et al., 2009), so
new ones need no restart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Encoder, Kind
from adaptd.records import Example

Floats = npt.NDArray[np.float64]
OCTAVES = 16
LOWEST = -3  # 2^-3 radians for each unit of u: a field's whole range; 2^13: differences of a thousandth and less
DECAY = 2.0 ** (-0.25 * np.arange(OCTAVES))  # a_k: near in all octaves is nearer than near in the fine ones alone
NORM = float(np.sqrt((DECAY**2).sum()))  # of φ(x), for every x


@dataclass(frozen=True)
class _Place:
    """Where a field, or a category, stands in the vector."""

    rates: Floats  # ω [OCTAVES]
    columns: npt.NDArray[np.int64]  # [2 OCTAVES], each once
    signs: Floats  # ±1 [2 OCTAVES]


@dataclass
class Numeric:
    """An encoder of numbers and categories, by name or in a fixed order."""

    name: ClassVar[str] = "numeric"
    reads: ClassVar[Kind] = "features"
    size: int = 512  # of a vector; from 32 features for each field on, fields no longer share any
    dim: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if self.size < 2 * OCTAVES:
            raise ValueError(f"size must be at least {2 * OCTAVES}")
        self.dim = self.size
        parts = {"kind": "numeric 1", "size": self.size, "octaves": OCTAVES, "lowest": LOWEST, "decay": DECAY.tolist()}
        self.digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self._places: dict[str, _Place] = {}

    def load(self) -> None:
        """There is nothing to load."""

    def encode(self, examples: Sequence[Example]) -> tuple[Tensor, Sequence[bool]]:
        """Return float16 vectors [n, dim] of unit length; zeros where there is nothing but gaps. None is ever truncated."""
        sums = np.zeros((len(examples), self.size))
        for name, found in _columns(examples).items():
            rows = np.array([row for row, _ in found])
            place = self._place(name)
            u = np.arcsinh(np.array([value for _, value in found]))[:, None] * place.rates
            read = np.concatenate([DECAY * np.cos(u), DECAY * np.sin(u)], axis=1) * place.signs
            sums[np.ix_(rows, place.columns)] += read
        for row, example in enumerate(examples):
            for name, value in _named(example).items():
                if isinstance(value, str):
                    place = self._place(f"{name}={value}")
                    sums[row, place.columns] += place.signs * NORM / np.sqrt(2 * OCTAVES)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return torch.from_numpy(sums / np.where(lengths > 0, lengths, 1.0)).half(), [False] * len(examples)

    def _place(self, name: str) -> _Place:
        """Return a name's place: by its hash, so that it is the same in every process (NumPy keeps RandomState's stream)."""
        if name not in self._places:
            random = np.random.RandomState(np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint32))
            place = _Place(rates=2.0 ** (LOWEST + np.arange(OCTAVES) + random.uniform(size=OCTAVES)),
                           columns=random.permutation(self.size)[:2 * OCTAVES].astype(np.int64),
                           signs=random.choice([-1.0, 1.0], 2 * OCTAVES))
            if len(self._places) >= KNOWN:
                self._places.clear()
            self._places[name] = place
        return self._places[name]


KNOWN = 10_000  # places in RAM: names and categories come from outside


def _named(example: Example) -> Mapping[str, float | str]:
    """Return the features by name; in a fixed order the name is the place."""
    features = example.features or {}
    return features if isinstance(features, Mapping) else {str(place): value for place, value in enumerate(features)}


def _columns(examples: Sequence[Example]) -> dict[str, list[tuple[int, float]]]:
    """Return (row, value) of every number, by name."""
    columns: dict[str, list[tuple[int, float]]] = {}
    for row, example in enumerate(examples):
        for name, value in _named(example).items():
            if not isinstance(value, str):
                columns.setdefault(name, []).append((row, float(value)))
    return columns


@hookimpl
def register_encoders() -> Iterable[type[Encoder]]:
    """Offer the encoder of numbers."""
    return [Numeric]
