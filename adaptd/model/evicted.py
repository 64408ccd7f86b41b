"""What is kept in this process of rows that are in the sums and not retrieved: 55 bytes each. Vectors are in the store.

A row comes here from the memory when its slot is given up, and goes back when a rollback makes it retrievable again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptd.model.memory import Memory

ROW = np.dtype([("id", "i8"), ("event", "i8"), ("born", "i8"), ("order", "i8"), ("target", "i4"), ("holdout", "?"),
                ("alive", "?"), ("summed", "?"), ("content", "V16")])
BLOCK = 256
Fetch = Callable[[Sequence[int]], dict[int, Tensor]]  # places -> stored vectors
Places = npt.NDArray[np.int64]


class Evicted:
    """The evicted rows of one head, in no order."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch
        self.rows = np.zeros(0, ROW)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def holdout(self) -> int:
        """How many are alive and held out."""
        return int((self.rows["holdout"] & self.rows["alive"]).sum())

    def take(self, memory: Memory, slots: Places) -> None:
        """Take rows over from memory."""
        rows = np.zeros(len(slots), ROW)
        for name, column in (("id", memory.ids), ("event", memory.events), ("born", memory.born), ("order", memory.order),
                             ("target", memory.targets), ("holdout", memory.holdout), ("alive", memory.alive),
                             ("summed", memory.summed)):
            rows[name] = column[slots]
        rows["content"] = packed([memory.contents[slot] for slot in slots])
        self.rows = np.concatenate([self.rows, rows])

    def find(self, ids: Iterable[int]) -> Places:
        """Return the places of those of the rows that are here."""
        return np.flatnonzero(np.isin(self.rows["id"], np.fromiter(ids, np.int64)))

    def drop(self, gone: npt.NDArray[np.bool_]) -> None:
        """Let go of rows."""
        self.rows = self.rows[~gone]

    def blocks(self, places: Places) -> Iterator[tuple[Places, Tensor, Tensor]]:
        """Yield rows with vectors and classes, few at a time."""
        for start in range(0, len(places), BLOCK):
            block = places[start:start + BLOCK]
            yield block, self.vectors(block), torch.from_numpy(self.rows["target"][block].astype(np.int64))

    def vectors(self, places: Places) -> Tensor:
        """Read the vectors of rows from the store."""
        events = self.rows["event"][places].tolist()
        found = self.fetch(events)
        return torch.stack([found[event] for event in events])


def packed(contents: Sequence[bytes]) -> npt.NDArray[np.void]:
    """Return contents as a column."""
    return np.frombuffer(b"".join(content.ljust(16, b"\0") for content in contents), dtype="V16")
