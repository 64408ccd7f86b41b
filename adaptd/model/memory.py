"""Memory: the learned rows of one head in this process, and FAISS over their keys.

Arrays only grow, so that a snapshot can share them: a slot's row never changes, whether it is alive is a bitmap
of the snapshot's own. Retrieval sits behind one call, `Keys.search`. The index is a cache: any index is one projection away.

A search goes over one bit a dimension (RaBitQ; Gao and Long, 2024) and lets exact inner products decide among what
that finds: a quarter of the time of an exact search over 15,000 keys of 1,152 dimensions, and the same neighbours but
for one in a thousand, at the far end. The bits of a key are its own (no centre is trained), so that an index made anew
finds the same.
"""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptd.errors import CorruptFile, MissingExtra

REBUILD_DEAD = 0.2  # share of dead slots at which the index is rebuilt
CHUNK = 1 << 20  # bytes of an index that are read or written at once: a second copy of it costs more than the reading
QUERY_BITS = 4  # a query's precision against one-bit codes
CANDIDATES, CANDIDATE_BITS = 4, 2048  # that exact products decide about, per neighbour: more where a code has few bits


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise MissingExtra("faiss is not installed", hint="pip install 'adaptd[cpu]' (or 'adaptd[gpu]')") from None


class Keys:
    """A FAISS index of float16 keys, inner product; position = slot."""

    def __init__(self, dim: int, data: bytes | None = None) -> None:
        self._faiss = _faiss()
        self.dim = dim
        if data is None:
            self._index = self._empty(dim)
        else:
            self._index = self._faiss.read_index(self._faiss.PyCallbackIOReader(io.BytesIO(data).read, CHUNK))
            if not isinstance(self._index, self._faiss.IndexRefine) or self._index.d != dim:
                raise CorruptFile(f"the index is a {type(self._index).__name__} of dimension {self._index.d}, not {dim}")

    def _empty(self, dim: int) -> Any:
        codes = self._faiss.IndexRaBitQ(dim, self._faiss.METRIC_INNER_PRODUCT)
        codes.train(np.zeros((1, dim), np.float32))  # the centre: zero
        exact = self._faiss.IndexScalarQuantizer(dim, self._faiss.ScalarQuantizer.QT_fp16, self._faiss.METRIC_INNER_PRODUCT)
        return self._faiss.IndexRefine(codes, exact)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, keys: Tensor) -> None:
        """Append keys [n, dim] for the next slots."""
        if len(keys):
            self._index.add(np.ascontiguousarray(keys.float().numpy()))

    def among(self, alive: npt.NDArray[np.uint8]) -> Any:
        """Return what restricts a search to the slots whose bit is set."""
        codes = self._faiss.RaBitQSearchParameters(sel=self._faiss.IDSelectorBitmap(alive), qb=QUERY_BITS)
        return self._faiss.IndexRefineSearchParameters(k_factor=max(CANDIDATES, CANDIDATE_BITS // self.dim),
                                                       base_index_params=codes)

    def search(self, queries: Tensor, k: int, among: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return (similarities, slots) [n, k'] of the slots that `among` lets through, best first; k' <= k, -1 = none."""
        similar, slots = self._index.search(np.ascontiguousarray(queries.float().numpy()), k, params=among)
        keep = int((slots >= 0).sum(1).max()) if len(slots) else 0
        return similar[:, :keep], slots[:, :keep]

    def dump(self) -> bytes:
        """Return the index as bytes."""
        written = io.BytesIO()
        self._faiss.write_index(self._index, self._faiss.PyCallbackIOWriter(written.write, CHUNK))
        return written.getvalue()


def bitmap(alive: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Pack flags into FAISS's bitmap (least significant bit first)."""
    return np.packbits(alive, bitorder="little")


def rank(ids: npt.NDArray[np.int64], born: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each row's place among those ever born in a lineage, in order; 0 for those of other lineages."""
    if not len(born):
        return np.zeros(len(ids), np.int64)
    sorter = np.argsort(born, kind="stable")
    place = sorter[np.minimum(np.searchsorted(born, ids, sorter=sorter), len(born) - 1)]
    return np.where(born[place] == ids, place, 0)


@dataclass(frozen=True, kw_only=True)
class NewRows:
    """Rows to append, column by column."""

    ids: Sequence[int]
    events: Sequence[int]  # places (`adaptd.records.place`): of a text whose words are tagged a word
    born: Sequence[int]
    targets: Sequence[int]  # class indices
    sources: Sequence[str]
    contents: Sequence[bytes]
    holdout: Sequence[bool]
    vectors: Tensor  # float16 [n, dim]

    def singly(self) -> Iterator[NewRows]:
        """Yield the rows one by one."""
        for i in range(len(self.ids)):
            one = slice(i, i + 1)
            yield NewRows(ids=self.ids[one], events=self.events[one], born=self.born[one], targets=self.targets[one],
                          sources=self.sources[one], contents=self.contents[one], holdout=self.holdout[one],
                          vectors=self.vectors[one])


HOLE = -1  # the row of a slot that has none
COLUMNS = ("ids", "events", "born", "targets", "origins", "alive", "summed", "evicted", "holdout", "order")


class Memory:
    """The rows of one head in slots, in the order they were entered."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.size = 0
        self.vectors = torch.zeros(0, dim, dtype=torch.float16)
        self.ids = np.zeros(0, np.int64)
        self.events = np.zeros(0, np.int64)  # places
        self.born = np.zeros(0, np.int64)
        self.targets = np.zeros(0, np.int32)
        self.origins = np.zeros(0, np.int32)  # what the row's event was called first, before its label changed
        self.alive = np.zeros(0, np.bool_)
        self.summed = np.zeros(0, np.bool_)  # in the ridge's sums
        self.evicted = np.zeros(0, np.bool_)  # not retrieved; its slot is given up when the memory is compacted
        self.holdout = np.zeros(0, np.bool_)
        self.order = np.zeros(0, np.int64)  # how many rows of the head had been learned before, for age
        self.sources: list[str] = []
        self.contents: list[bytes] = []
        self.slot_of: dict[int, int] = {}

    @classmethod
    def of(cls, dim: int, ids: npt.NDArray[np.int64], alive: npt.NDArray[np.bool_], rows: NewRows) -> Memory:
        """Return a memory with these slots; `rows` has the alive ones, dead slots stay empty."""
        memory = cls(dim)
        memory._grow(len(ids))
        memory.size = len(ids)
        memory.ids[:len(ids)], memory.alive[:len(ids)] = np.where(alive, ids, HOLE), alive
        memory.sources, memory.contents = [""] * len(ids), [b""] * len(ids)
        memory.slot_of = {int(row): slot for slot, row in enumerate(ids) if alive[slot]}
        slots = np.array([memory.slot_of[row] for row in rows.ids], np.int64)
        memory.events[slots], memory.born[slots], memory.targets[slots] = rows.events, rows.born, rows.targets
        memory.origins[slots], memory.holdout[slots] = rows.targets, rows.holdout
        if np.array_equal(slots, np.arange(len(memory.ids))):
            memory.vectors = rows.vectors  # of many rows a copy takes as long as reading them
        else:
            memory.vectors[:len(ids)] = 0.0
            memory.vectors[slots] = rows.vectors
        for slot, source, content in zip(slots, rows.sources, rows.contents, strict=True):
            memory.sources[slot], memory.contents[slot] = source, content
        return memory

    def _grow(self, wanted: int) -> None:
        if wanted <= len(self.ids):
            return
        capacity = max(1024, 2 * len(self.ids), wanted)
        for name in COLUMNS:
            old = getattr(self, name)
            fresh = np.zeros(capacity, old.dtype)
            fresh[:self.size] = old[:self.size]
            setattr(self, name, fresh)
        vectors = torch.empty(capacity, self.dim, dtype=torch.float16)
        vectors[:self.size] = self.vectors[:self.size]
        self.vectors = vectors

    def append(self, new: NewRows) -> slice:
        """Enter rows as alive; return their slots."""
        n = len(new.ids)
        self._grow(self.size + n)
        slots = slice(self.size, self.size + n)
        self.ids[slots], self.events[slots], self.born[slots] = new.ids, new.events, new.born
        self.targets[slots] = self.origins[slots] = new.targets
        self.vectors[slots] = new.vectors
        self.holdout[slots] = new.holdout
        self.alive[slots] = True
        self.sources += new.sources
        self.contents += new.contents
        for slot, row in enumerate(new.ids, slots.start):
            self.slot_of[row] = slot
        self.size += n
        return slots

    def aside(self) -> Memory:
        """Return the same rows with flags and ages of their own; what only grows is shared."""
        other = copy.copy(self)
        other.alive, other.summed, other.order = self.alive.copy(), self.summed.copy(), self.order.copy()
        other.evicted = self.evicted.copy()
        other.slot_of = dict(self.slot_of)
        return other

    def compacted(self) -> Memory:
        """Return a memory of the retrievable rows and of dead ones that are still in the sums."""
        keep = np.flatnonzero((self.alive[:self.size] | self.summed[:self.size]) & ~self.evicted[:self.size])
        fresh = Memory(self.dim)
        fresh._grow(len(keep))
        for name in COLUMNS:
            getattr(fresh, name)[:len(keep)] = getattr(self, name)[keep]
        fresh.vectors[:len(keep)] = self.vectors[torch.from_numpy(keep)]
        fresh.sources = [self.sources[slot] for slot in keep]
        fresh.contents = [self.contents[slot] for slot in keep]
        fresh.slot_of = {int(self.ids[slot]): place for place, slot in enumerate(keep)}
        fresh.size = len(keep)
        return fresh

    @property
    def retrievable(self) -> npt.NDArray[np.bool_]:
        """Which slots are alive and not evicted."""
        size = self.size  # once: others than the learner look too
        return self.alive[:size] & ~self.evicted[:size]

    def dead_share(self) -> float:
        """Return the share of slots that are not retrievable."""
        return 1.0 - float(self.retrievable.mean()) if self.size else 0.0
