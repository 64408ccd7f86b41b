"""What answers: one head's state, frozen, and a domain's heads together.

A snapshot is immutable and shares the growing arrays of memory: rows that come later lie beyond what its bitmap knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from adaptd.heads import Classify, Spans
from adaptd.heads import Head as Kind
from adaptd.heads import class_of as class_name
from adaptd.model.abstain import Limits
from adaptd.model.attention import Adapter, Bools, Floats, Ints
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.decoder import Young, young_among
from adaptd.model.means import Centres
from adaptd.model.memory import Keys
from adaptd.model.reading import Reading, reading
from adaptd.model.weights import Weights
from adaptd.records import event_of
from adaptd.words import OUTSIDE

FEW = 8
Bits = npt.NDArray[np.uint8]
ONE_LABEL = Classify()


@dataclass(frozen=True, kw_only=True)
class HeadSnapshot:
    """All that one head answers with."""

    labels: tuple[str, ...]
    classes: Mapping[str, int]
    counts: Ints  # alive rows per label
    features: RandomFeatures
    ridge: Tensor  # B [M, C']
    solved: Tensor  # rows per label that B was solved with [C']
    centres: Centres
    adapter: Adapter
    log_value: Floats  # [C]
    rates: Floats  # [C]: a label's share of recent rows over its share of all
    trust: Floats  # [E, C]
    rule: float
    temperature: float
    keys: Keys
    alive: Bits
    neighbours: int
    targets: npt.NDArray[np.int32]  # per slot: class
    origins: npt.NDArray[np.int32]  # per slot: class that its event was called first
    order: Ints  # per slot: learned rows before it
    learned: int  # learned rows so far, for ages
    rows: npt.NDArray[np.int64]
    events: npt.NDArray[np.int64]  # places (`adaptd.records.place`)
    sources: Sequence[str]
    limits: Limits
    kind: Kind = ONE_LABEL

    def index_of(self, label: str) -> int | None:
        """Return the class of a label that has alive rows."""
        index = self.classes.get(class_name(self.kind, label))
        return index if index is not None and int(self.counts[index]) > 0 else None

    def is_outside(self, index: int) -> bool:
        """Say whether a class is that of the words outside of all spans."""
        return isinstance(self.kind, Spans) and self.labels[index] == OUTSIDE

    def events_of(self, label: str | None) -> set[int]:
        """Return the newest few events that a label was learned from."""
        if label is None or (index := self.index_of(label)) is None:
            return set()
        slots = np.flatnonzero(np.unpackbits(self.alive, count=min(8 * len(self.alive), len(self.targets)), bitorder="little"))
        return set(event_of(self.events[slots[self.targets[slots] == index][-FEW:]]).tolist())

    @cached_property
    def known(self) -> Bools:
        """Which classes have alive rows [C]."""
        return self.counts > 0

    @cached_property
    def consolidated(self) -> Ints:
        """The class of each label that upper blocks were tuned on [L]; -1 where no row of it is alive."""
        labels = () if self.adapter.upper is None else self.adapter.upper.labels
        found = [self.index_of(label) for label in labels]
        return np.array([-1 if place is None else place for place in found], np.int64)

    @cached_property
    def reading(self) -> Reading:
        """What reads the head's chances."""
        return reading(self.kind, self.labels)

    @cached_property
    def young(self) -> Young | None:
        """Which classes the rule for young classes decides about; None when there are none."""
        return young_among(self.counts, self.solved.numpy())

    @cached_property
    def _among(self) -> Any:
        return self.keys.among(self.alive)

    def retrieve(self, vectors: Tensor) -> tuple[Floats, Ints]:
        """Return (similarities, slots) [n, k] of the nearest alive rows: retrieval behind one call."""
        similarity, slots = self.keys.search(self.adapter.queries(vectors), self.neighbours, self._among)
        order = np.lexsort((self.rows[slots], -similarity), axis=1)  # equal similarity: the older row
        return np.take_along_axis(similarity, order, 1), np.take_along_axis(slots, order, 1)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a domain answers with: wholly one version."""

    version: int
    seq: int
    heads: Mapping[str, HeadSnapshot]

    @property
    def weights(self) -> Weights | None:
        """What the generator was trained to, where texts are written and it was."""
        return next((head.adapter.weights for head in self.heads.values() if head.adapter.weights is not None), None)
