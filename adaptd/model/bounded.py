"""A head's rows within bounds: which are retrievable, which are in the sums only, and how either becomes the other.

A row that is evicted keeps its slot until the memory is compacted; then 55 bytes of it stay here (`Evicted`), and its
vector is read from the store where the sums still want it: when its label is corrected, or its class is small. Which row
goes is `adaptd.retained`'s fold; what a lineage has evicted by a seq stands in the store, so any state can be had back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptd.model.evicted import ROW, Evicted, Fetch
from adaptd.model.memory import NewRows, rank
from adaptd.records import event_of, place
from adaptd.retained import Bound, Floats, Ints, Retained, priority

if TYPE_CHECKING:
    from adaptd.model.network import Head

Rules = Callable[[int], Bound | None]  # what bounds a row that is born at a seq
Load = Callable[[Collection[int]], NewRows]  # alive rows by id, from the store
Columns = npt.NDArray[np.void]  # rows as `Evicted` keeps them
FOREVER = 1 << 62  # a seq behind all others


def unbounded(_seq: int) -> None:
    """Bound nothing."""


def nothing_stored(events: Sequence[int]) -> dict[int, Tensor]:
    """Stand for a store where there is none: a head that evicts nothing never asks."""
    raise LookupError(f"no store to read {len(events)} evicted rows from")


class Bounded:
    """The bounds of one head and the rows beyond them."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.rules: Rules = unbounded
        self.gone = Evicted(nothing_stored)
        self.new: list[tuple[int, int]] = []  # (row, seq) evicted and not recorded yet
        self._retained: Retained | None = None

    def aside(self, head: Head) -> Bounded:
        """Return the same bounds and rows, of a head that goes on by itself."""
        other = Bounded(head)
        other.rules = self.rules
        other.read_from(self.gone.fetch)
        other.gone.rows = self.gone.rows.copy()
        return other

    def read_from(self, fetch: Fetch) -> None:
        """Read the vectors of evicted rows there."""
        self.gone.fetch = fetch

    # -- learning ---------------------------------------------------------------------------------------------

    def fits(self, new: NewRows) -> bool:
        """Say whether no row of these can evict another; ask before they are entered."""
        bound = self.rules(new.born[0])
        if bound is None or bound != self.rules(new.born[-1]):
            return bound is None and self.rules(new.born[-1]) is None
        targets = self._head.memory.targets[:self._head.memory.size][self._head.memory.retrievable]
        room = not bound.capacity or len(targets) + len(new.ids) <= bound.capacity
        return room and (not bound.per_class or int(np.bincount(np.append(targets, new.targets)).max()) <= bound.per_class)

    def entered(self, slots: slice, *, evict: bool) -> None:
        """Follow rows that were entered; with `evict` let others go for them (then it is one row)."""
        memory = self._head.memory
        if self._retained is None and not evict:
            return
        fresh = range(slots.start, slots.stop)
        if self._retained is not None:
            for slot in fresh:
                self._retained.add(*self._place(slot))
        for slot in fresh if evict else ():
            bound, seq = self.rules(int(memory.born[slot])), int(memory.born[slot])
            if bound is not None:
                for row in self._kept().excess(bound, *self._place(slot), self._head.learned):
                    self.new.append((row, seq))
                    gone = np.array([memory.slot_of[row]])
                    self.lost(gone)
                    self._head.tally(gone, -1)
                    memory.evicted[gone] = True

    def lost(self, slots: Ints) -> None:
        """Follow slots that are about to be retrievable no more."""
        if self._retained is not None:
            for slot in slots.tolist():
                if not self._head.memory.evicted[slot]:
                    self._retained.remove(*self._place(slot))

    def changed(self) -> None:
        """Look at the memory anew: its rows were exchanged, or its classes renumbered."""
        self._retained = None

    def _kept(self) -> Retained:
        if self._retained is None:
            self._retained = Retained(self)
            slots = np.flatnonzero(self._head.memory.retrievable)
            self._retained.fill(self._place(slot) for slot in slots[np.argsort(self._head.memory.ids[slots])].tolist())
        return self._retained

    def _place(self, slot: int) -> tuple[int, int, int]:
        memory = self._head.memory
        return int(memory.ids[slot]), int(memory.targets[slot]), priority(memory.contents[slot])

    # -- what the fold asks (`adaptd.retained.Source`) --------------------------------------------------------

    def vectors_of(self, rows: Sequence[int]) -> Floats:
        """Return the vectors of retrievable rows."""
        memory = self._head.memory
        found: Floats = memory.vectors[[memory.slot_of[row] for row in rows]].float().numpy()
        return found

    def order_of(self, rows: Sequence[int]) -> Ints:
        """Return how many rows had been learned before each."""
        memory = self._head.memory
        found: Ints = memory.order[[memory.slot_of[row] for row in rows]]
        return found

    def target_of(self, row: int) -> int:
        """Return a row's class."""
        return int(self._head.memory.targets[self._head.memory.slot_of[row]])

    def mean_of(self, target: int) -> Floats:
        """Return the mean over all alive rows of a class."""
        means = self._head.means
        mean: Floats = (means.sums[target] / int(means.counts[target])).numpy()
        return mean

    # -- rows beyond the bounds -------------------------------------------------------------------------------

    def give_up_slots(self) -> None:
        """Take the evicted rows over from memory, which is compacted next; let go of dead ones."""
        memory = self._head.memory
        self.gone.drop(~self.gone.rows["alive"] & ~self.gone.rows["summed"])
        held = (memory.alive | memory.summed)[:memory.size]
        if memory.evicted[:memory.size].any():
            self.gone.take(memory, np.flatnonzero(memory.evicted[:memory.size] & held))

    def of_events(self, events: Sequence[int]) -> list[int]:
        """Return the alive rows of events that are here and nowhere else in this process."""
        rows = self.gone.rows
        found: list[int] = rows["id"][rows["alive"] & np.isin(event_of(rows["event"]), np.array(events, np.int64))].tolist()
        return found

    def retire(self, rows: Collection[int]) -> None:
        """Let evicted rows die: out of the class means now, of the ridge with the next `sync`."""
        self._turn(self.gone.find(rows), alive=False)

    def revive(self, rows: Collection[int]) -> None:
        """Undo `retire`."""
        self._turn(self.gone.find(rows), alive=True)

    def _turn(self, places: npt.NDArray[np.int64], *, alive: bool) -> None:
        turned = places[self.gone.rows["alive"][places] != alive]
        for _, vectors, y in self.gone.blocks(turned):
            self._head.means.add(vectors, y, len(self._head.labels), sign=1 if alive else -1)
        self.gone.rows["alive"][turned] = alive

    @property
    def stale(self) -> int:
        """Count the evicted rows that the ridge's sums hold and should not, or should and do not."""
        return int((self.gone.rows["alive"] != self.gone.rows["summed"]).sum())

    def sync(self, limit: int | None) -> None:
        """Bring the ridge's sums to the evicted rows that are alive."""
        head, rows = self._head, self.gone.rows
        places = np.flatnonzero(rows["alive"] != rows["summed"])[:limit]
        for block, vectors, y in self.gone.blocks(places):
            h, leaves = head.features(vectors), torch.from_numpy(rows["summed"][block].copy())
            if leaves.any():
                head.ridge.remove(h[leaves], y[leaves])
            if not leaves.all():
                head.ridge.add(h[~leaves], y[~leaves], len(head.labels))
            rows["summed"][block] = rows["alive"][block]

    def small(self, few: npt.NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Return features and classes of the evicted rows of small classes."""
        rows = self.gone.rows
        places = np.flatnonzero(rows["alive"] & few[rows["target"]])
        parts = [(self._head.features(vectors), y) for _, vectors, y in self.gone.blocks(places)]
        nothing = torch.zeros(0, self._head.options.features), torch.zeros(0, dtype=torch.int64)
        return torch.cat([nothing[0], *(h for h, _ in parts)]), torch.cat([nothing[1], *(y for _, y in parts)])

    # -- another state ----------------------------------------------------------------------------------------

    def become(self, alive: Ints, evicted: Ints, load: Load) -> None:
        """Let exactly these rows be alive, and those of them evicted that are said to be; the ridge follows later."""
        head, held, gone = self._head, self._head.memory.ids[:self._head.memory.size], self.gone.rows["id"]
        wanted = np.isin(held, alive)
        head.retire(np.flatnonzero(~wanted))
        head.revive(np.flatnonzero(wanted))
        self.retire(gone[~np.isin(gone, alive)].tolist())
        self.revive(gone[np.isin(gone, alive)].tolist())
        absent = alive[~np.isin(alive, np.concatenate([held, gone]))]
        if len(absent):
            head.enter(load(absent.tolist()))
        self.shelve(evicted, load)

    def shelve(self, evicted: Ints, load: Load) -> None:
        """Let exactly these of the alive rows be evicted."""
        memory, rows = self._head.memory, self.gone.rows
        now = np.isin(memory.ids[:memory.size], evicted)
        alive, before = memory.alive[:memory.size], memory.evicted[:memory.size].copy()
        self._head.tally(np.flatnonzero(alive & now & ~before), -1)
        memory.evicted[:memory.size] = now
        self._head.tally(np.flatnonzero(alive & before & ~now), 1)
        back = rows["id"][rows["alive"] & ~np.isin(rows["id"], evicted)]
        if len(back):
            self._recall(load(back.tolist()))
        self.changed()

    def _recall(self, rows: NewRows) -> None:
        """Give slots to rows that were evicted; sums and class means have them."""
        memory, places = self._head.memory, self.gone.find(rows.ids)
        known = {int(row["id"]): row for row in self.gone.rows[places]}
        slots = memory.append(rows)
        memory.order[slots] = [known[row]["order"] for row in rows.ids]
        memory.summed[slots] = [known[row]["summed"] for row in rows.ids]
        self._head.tally(np.arange(slots.start, slots.stop), 1)
        self.gone.drop(np.isin(self.gone.rows["id"], np.array(list(known), np.int64)))

    def fill(self, rows: Columns, summed: Collection[int] | None) -> None:
        """Begin with these evicted rows; without `summed` neither means nor ridge have them yet."""
        self.gone.rows = rows
        if summed is None:
            rows["alive"] = False
            self.revive(rows["id"].tolist())
        else:
            rows["summed"] = np.isin(rows["id"], np.fromiter(summed, np.int64, len(summed)))

    def renumber(self, place: npt.NDArray[np.int32]) -> None:
        """Give class i the number place[i]."""
        self.gone.rows["target"] = place[self.gone.rows["target"]]
        self.changed()

    def reorder(self, born: Ints) -> None:
        """Say anew how many rows had been learned before each; `born`: all of the lineage, in order."""
        self.gone.rows["order"] = rank(self.gone.rows["id"], born)

    def facts(self) -> dict[str, Any]:
        """Return limits and counts for people."""
        bound = self.rules(FOREVER)
        limits = {"capacity": bound.capacity, "per_class": bound.per_class, "policy": bound.policy.name} if bound else \
            {"capacity": 0, "per_class": 0, "policy": None}
        kept = int(self._head.memory.retrievable.sum())
        return {**limits, "retrievable": kept, "evicted": max(0, int(self._head.means.counts.sum()) - kept)}

    def evicted_ids(self) -> npt.NDArray[np.int64]:
        """Return the alive rows that are evicted."""
        memory, rows = self._head.memory, self.gone.rows
        here = memory.ids[:memory.size][(memory.alive & memory.evicted)[:memory.size]]
        return np.concatenate([here, rows["id"][rows["alive"]]])

    def evicted_of(self, target: int, before: int) -> list[int]:
        """Return the alive rows of a class that are evicted and were born before a seq."""
        memory, rows = self._head.memory, self.gone.rows
        size = memory.size
        here = memory.alive[:size] & memory.evicted[:size] & (memory.targets[:size] == target) & (memory.born[:size] < before)
        away = rows["alive"] & (rows["target"] == target) & (rows["born"] < before)
        found: list[int] = [*memory.ids[:size][here].tolist(), *rows["id"][away].tolist()]
        return found

    def columns(self, beyond: int) -> tuple[Columns, npt.NDArray[np.bool_]]:
        """Return the alive rows, oldest birth first, and which are retrievable.

        Of those that are not, `beyond` at most: held-out ones before others, new ones before old ones.
        """
        memory, both = self._head.memory, Evicted(self.gone.fetch)
        both.take(memory, np.flatnonzero(memory.alive[:memory.size]))
        kept = memory.retrievable[memory.alive[:memory.size]]
        away = np.concatenate([both.rows[~kept], self.gone.rows[self.gone.rows["alive"]]])
        away = away[np.lexsort((away["born"], away["holdout"]))][max(0, len(away) - beyond):]
        rows = np.concatenate([both.rows[kept], away])
        order = np.lexsort((rows["id"], rows["born"]))
        return rows[order], (np.arange(len(rows)) < kept.sum())[order]


def evicted_rows(found: Sequence[Any], target: Callable[[str], int], contents: Columns) -> Columns:
    """Make the columns of evicted rows that were read from the store."""
    rows = np.zeros(len(found), ROW)
    for name in ("id", "born", "holdout"):
        rows[name] = [getattr(r, name) for r in found]
    rows["event"] = [place(r.event, r.part) for r in found]
    rows["target"] = [target(r.target) for r in found]
    rows["alive"], rows["content"] = True, contents
    return rows
