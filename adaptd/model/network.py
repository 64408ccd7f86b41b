"""One head's state as its learner changes it; what answers is its snapshot (`adaptd.model.snapshot`).

Everything here is of the two kinds that DESIGN section 4 allows: sums over alive rows (`sync` brings them to any
set of rows, whatever they were before) and folds over the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptd.errors import CorruptFile
from adaptd.heads import Generate, Reply
from adaptd.heads import Head as Kind
from adaptd.heads import class_of as class_name
from adaptd.model import files
from adaptd.model.abstain import Limits
from adaptd.model.attention import Adapter, Floats, Ints, balance
from adaptd.model.bounded import Bounded, Load
from adaptd.model.closed_form import JUDGED, JUDGED_FROM, KIND, PENDING, STRENGTHS, RandomFeatures, Ridge, strength, weights
from adaptd.model.evicted import ROW, packed
from adaptd.model.fold import Fold
from adaptd.model.means import ClassMeans
from adaptd.model.memory import REBUILD_DEAD, Keys, Memory, NewRows, bitmap, rank
from adaptd.model.snapshot import ONE_LABEL, HeadSnapshot

RATE_HALF_LIFE, LATELY = 1000.0, 4  # learned rows; but no more than a fourth of them: what is recent depends on how long there is
COMPACT_FROM = 1000  # slots
CATCH_UP = 4096  # rows that a checkpoint brings the sums up by
WAY_BACK = 1000  # learned rows for which the rows are kept that a rollback left: the way forth is as quick
Bits = npt.NDArray[np.uint8]
NONE = np.zeros(0, ROW)


@dataclass
class Shadow:
    """What a head answered with before its adapter changed: the adapter, and what it has learned from outcomes since then too."""

    adapter: Adapter
    fold: Fold


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Sizes and seeds of a head, from the configuration."""

    dim: int
    features: int
    neighbours: int
    seed: int
    abstain_error: float = 0.0
    out_of_scope: float = 0.0
    kind: Kind = ONE_LABEL

    @property
    def unseen(self) -> float:
        """The share that a head which replies may answer wrongly; each teacher has words of its own: none contradicts another."""
        return self.kind.unseen if isinstance(self.kind, Reply) else 0.0

    @property
    def generates(self) -> bool:
        """Whether answers are written: there is nothing to test before it is learned."""
        return isinstance(self.kind, Generate)

    @property
    def adapts(self) -> bool:
        """Whether there is something to adapt."""
        return not isinstance(self.kind, Generate) or self.kind.trainable

    def limits(self, fold: Fold) -> Limits:
        """Return below which an answer is withheld, as a fold has learned it."""
        return Limits() if self.generates else fold.recent.limits(self.abstain_error, self.out_of_scope, self.unseen)


@dataclass
class Head:
    """The changing state of one head; only its learner's thread touches it."""

    options: HeadOptions
    features: RandomFeatures
    labels: list[str] = field(default_factory=list)
    adapter: Adapter = field(default_factory=Adapter)
    fold: Fold = field(default_factory=Fold)

    def __post_init__(self) -> None:
        self.memory = Memory(self.options.dim)
        self.means = ClassMeans(self.options.dim)
        self.ridge = Ridge(self.options.features)
        self.keys = Keys(self.adapter.rank(self.options.dim))
        self._other: tuple[Adapter, Keys] | None = None  # the adapter before this one, for a quick way back
        self.bounded = Bounded(self)
        self.learned = 0  # rows ever learned in this lineage, for ages
        self._keep_until = 0  # … at which dead rows may go
        self.taught: dict[str, Counter[str]] = {}  # label -> retrievable rows per source
        self._class_of: dict[str, int] = {}
        self._judged: tuple[tuple[int, ...], bytes, float] = (), b"", STRENGTHS[0]  # among which rows, by which, what came of it
        self._b, self._solved = torch.zeros(self.options.features, 0), torch.zeros(0, dtype=torch.int64)

    def class_of(self, label: str) -> int:
        """Return a label's class, making one when it is new to this lineage."""
        label = class_name(self.options.kind, label)
        known = self._class_of.get(label)
        if known is None or known >= len(self.labels):
            self.set_labels([*self.labels, label])
        return self._class_of[label]

    # -- learning ---------------------------------------------------------------------------------------------

    def learn(self, new: NewRows) -> None:
        """Enter rows; where the memory is full others are evicted for them, row by row."""
        if self.bounded.fits(new):
            self.bounded.entered(self.enter(new), evict=False)
            return
        for one in new.singly():
            self.bounded.entered(self.enter(one), evict=True)

    def enter(self, new: NewRows) -> slice:
        """Put rows into memory and class means; they are alive at the next snapshot. The ridge follows later."""
        slots = self.memory.append(new)
        self.memory.order[slots] = np.arange(self.learned, self.learned + len(new.ids))
        self.learned += len(new.ids)
        self.means.add(new.vectors, torch.tensor(list(new.targets), dtype=torch.int64), len(self.labels))
        self.tally(np.arange(slots.start, slots.stop), 1)
        return slots

    def retire(self, slots: Sequence[int] | Ints) -> None:
        """Take rows out of memory and class means; the ridge follows later."""
        slots = np.asarray(slots, np.int64)
        slots = slots[self.memory.alive[slots]]
        self.bounded.lost(slots)
        self.memory.alive[slots] = False
        self._mean(slots, -1)
        self.tally(slots, -1)

    def retire_rows(self, rows: Sequence[int]) -> None:
        """Retire rows by id, evicted ones too; what never came is nothing to retire."""
        self.retire([self.memory.slot_of[row] for row in rows if row in self.memory.slot_of])
        self.bounded.retire(rows)

    def inherit(self, died: Iterable[int], born: Iterable[int]) -> None:
        """Let rows be of the origin of those that died for them."""
        memory = self.memory
        before = [memory.slot_of[row] for row in died if row in memory.slot_of]
        origins = {int(memory.events[slot]): memory.origins[slot] for slot in before}
        for slot in [memory.slot_of[row] for row in born if row in memory.slot_of]:
            memory.origins[slot] = origins.get(int(memory.events[slot]), memory.origins[slot])

    def trace(self, retaught: Iterable[tuple[int, int, str]]) -> None:
        """Let rows be of the origin that a lineage gives them: (row, place, label) of places that had several, in order."""
        memory, first = self.memory, dict[int, str]()
        origins = memory.targets.copy()
        for row, place, label in retaught:
            if first.setdefault(place, label) != label and row in memory.slot_of:
                origins[memory.slot_of[row]] = self._class_of[class_name(self.options.kind, first[place])]
        memory.origins = origins

    def revive(self, slots: Sequence[int] | Ints) -> None:
        """Undo `retire`."""
        slots = np.asarray(slots, np.int64)
        slots = slots[~self.memory.alive[slots]]
        if len(slots):
            self.memory.alive[slots] = True
            self.bounded.changed()
            self._mean(slots, 1)
            self.tally(slots, 1)

    def _mean(self, slots: Ints, sign: int) -> None:
        for some in _blocks(slots):
            self.means.add(self.memory.vectors[some], self._targets(some), len(self.labels), sign)

    def tally(self, slots: Ints, sign: int) -> None:
        """Count slots that become retrievable (1) or no longer are (-1) by label and source; evicted ones are neither."""
        names, memory = list(self._class_of), self.memory
        slots = slots[~memory.evicted[slots]]
        pairs = Counter(zip(memory.targets[slots].tolist(), map(memory.sources.__getitem__, slots.tolist()), strict=True))
        for (target, source), count in pairs.items():
            self.taught.setdefault(names[target], Counter())[source] += sign * count

    def _targets(self, slots: Any) -> Tensor:
        return torch.from_numpy(self.memory.targets[slots].astype(np.int64))

    @property
    def stale(self) -> int:
        """Count the rows that the solved ridge holds and should not, or should and does not."""
        here = int((self.memory.summed[: self.memory.size] != self.memory.alive[: self.memory.size]).sum())
        return here + self.bounded.stale

    def sync(self, limit: int | None = None) -> int:
        """Bring the ridge's sums to the alive rows, exactly, whatever rows they held; return how many still differ."""
        memory, size = self.memory, self.memory.size
        alive, summed = memory.alive[:size], memory.summed[:size]
        for slots in _blocks(np.flatnonzero(summed & ~alive)[:limit]):
            self.ridge.remove(self.features(memory.vectors[slots]), self._targets(slots))
            summed[slots] = False
        for slots in _blocks(np.flatnonzero(alive & ~summed)[:limit]):
            self.ridge.add(self.features(memory.vectors[slots]), self._targets(slots), len(self.labels))
            summed[slots] = True
        self.bounded.sync(limit)
        return self.stale

    def solve(self) -> None:
        """Solve the ridge over the alive rows."""
        self.sync()
        if self._knows:
            self.ridge.penalise(self.strength())
            self._b = self.ridge.solve(self._small)[:, : len(self.labels)].clone()
            self._solved = self.ridge.counts[: len(self.labels)].clone()
        else:
            self._b, self._solved = torch.zeros(self.options.features, 0), torch.zeros(0, dtype=torch.int64)

    def strength(self) -> float:
        """Return the strength of the ridge's penalty, chosen by rows that are drawn, by their content, from the oldest alive.

        These are 64, 128, 256 … of them: the rows change seldom, and depend on what is alive alone, not on how it came so.
        """
        memory, gone = self.memory, self.bounded.gone
        slots, places = np.flatnonzero(memory.alive[: memory.size]), np.flatnonzero(gone.rows["alive"])
        ids = np.concatenate([memory.ids[slots], gone.rows["id"][places]])
        if len(ids) < JUDGED_FROM:
            return STRENGTHS[0]
        count = 1 << (len(ids).bit_length() - 1)
        oldest = np.argpartition(ids, count - 1)[:count]
        among = count, int(ids[oldest].sum()), int(np.bitwise_xor.reduce(ids[oldest]))
        if among != self._judged[0]:
            here, away = slots[oldest[oldest < len(slots)]], places[oldest[oldest >= len(slots)] - len(slots)]
            drawn = np.concatenate([packed([memory.contents[slot] for slot in here]), gone.rows["content"][away]])
            first = np.lexsort((np.concatenate([memory.ids[here], gone.rows["id"][away]]), drawn.view("<u8")[::2]))[:JUDGED]
            here, away = here[first[first < len(here)]], away[first[first >= len(here)] - len(here)]
            rows = np.concatenate([memory.ids[here], gone.rows["id"][away]]).tobytes()
            self._judged = among, rows, self._judged[2] if rows == self._judged[1] else self._strength(here, away)
        return self._judged[2]

    def _strength(self, here: Ints, away: Ints) -> float:
        parts = [(self.features(self.memory.vectors[here]), self._targets(here))]
        parts += [(self.features(vectors), y) for _, vectors, y in self.bounded.gone.blocks(away)]
        return strength(torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts]))

    def _small(self) -> tuple[Tensor, Tensor]:
        """Return features and classes of the alive rows of small classes."""
        slots = np.flatnonzero(self.memory.alive[: self.memory.size])
        few = (weights(self.ridge.counts) > 1.0).numpy()
        slots = slots[few[self.memory.targets[slots]]]
        h, y = self.bounded.small(few)
        return torch.cat([self.features(self.memory.vectors[slots]), h]), torch.cat([self._targets(slots), y])

    @property
    def _knows(self) -> bool:
        """Whether any row is alive."""
        return bool(self.means.counts.sum() > 0)

    # -- answering --------------------------------------------------------------------------------------------

    def index(self) -> None:
        """Append the keys of rows not indexed yet; between two batches only (the inference thread searches)."""
        done = len(self.keys)
        if done < self.memory.size:
            self.keys.add(self.adapter.keys(self.memory.vectors[done : self.memory.size]))

    def rebuilt(self, adapter: Adapter) -> Keys:
        """Return a fresh index of all rows under an adapter; may run while the old one answers."""
        keys = Keys(adapter.rank(self.options.dim))
        for start in range(0, self.memory.size, 4096):
            keys.add(adapter.keys(self.memory.vectors[start : min(start + 4096, self.memory.size)]))
        return keys

    def adopt(self, adapter: Adapter, keys: Keys | None = None) -> None:
        """Answer with this adapter from the next snapshot on; `keys` is an index already made for it."""
        if keys is None and adapter.same(self.adapter):
            return
        self._other, keys = (self.adapter, self.keys), keys if keys is not None else self._made(adapter)
        self.adapter, self.keys = adapter, keys
        self.fold.expect(adapter)

    def _made(self, adapter: Adapter) -> Keys:
        """Return the index of the previous adapter if it is that one, which is what a rollback wants."""
        if self._other is not None and adapter.same(self._other[0]) and len(self._other[1]) <= self.memory.size:
            return self._other[1]
        return self.rebuilt(adapter)

    def clear_answers(self) -> None:
        """Forget the solved ridge, folds and label order; rows stay."""
        self._b, self._solved = torch.zeros(self.options.features, 0), torch.zeros(0, dtype=torch.int64)
        self.fold = Fold()
        self.fold.expect(self.adapter)
        self.fold.grow(len(self.labels))

    def compact(self) -> bool:
        """Drop dead and evicted rows when they are a fifth; a fresh memory and index, so that old snapshots stay whole."""
        if self.memory.dead_share() <= REBUILD_DEAD or self.memory.size < COMPACT_FROM or self.learned < self._keep_until:
            return False
        self._drop_dead()
        return True

    def _drop_dead(self) -> None:
        self.bounded.give_up_slots()
        self.memory = self.memory.compacted()
        self.keys, self._other = self.rebuilt(self.adapter), None

    def forget(self, rows: Iterable[int], born: Sequence[tuple[int, str]]) -> None:
        """Take rows out of everything, as if they had never been entered; `born`: what is left, (row, label) in order.

        The sums lose them exactly; arrays and index are made anew without them; a label that no row of `born` has is
        gone, with its name. What answers is to be solved, and the folds to be made again.
        """
        self.retire_rows(list(rows))
        self.sync()
        self._drop_dead()
        self.set_labels(list(dict.fromkeys(label for _, label in born)))
        self._class_of = {label: index for index, label in enumerate(self.labels)}
        self.means.shrink(len(self.labels))
        self.taught = {label: +by for label, by in self.taught.items() if label in self._class_of}  # no name of what is gone
        if int(self.means.counts.sum()) <= PENDING:  # so few that one who never had more would hold no Gram matrix
            self.ridge, self.memory.summed[:], self.bounded.gone.rows["summed"] = Ridge(self.options.features), False, False
            self.sync()
        self.ridge.shrink(len(self.labels))
        self.age(_ids(born))
        self.clear_answers()

    def become(self, born: Ints, alive: Ints, evicted: Ints, load: Load) -> None:
        """Go to another state's rows: all that were ever born, in order, those of them alive, and those of these evicted.

        What is left now stays in this process for a while.
        """
        self.bounded.become(alive, evicted, load)
        self.age(born)
        self._keep_until = self.learned + WAY_BACK

    def age(self, born: Ints) -> None:
        """Take the rows' ages from the rows that were ever born in the lineage, in order; others have none."""
        self.learned = len(born)
        order = self.memory.order.copy()  # a snapshot that still answers shares the old one
        order[: self.memory.size] = rank(self.memory.ids[: self.memory.size], born)
        self.memory.order = order
        self.bounded.reorder(born)

    def aside(self) -> Head:
        """Return the same head to go on from by itself. The index is shared: it must be searched where this one's is."""
        other = Head(self.options, self.features, labels=list(self.labels), adapter=self.adapter, fold=deepcopy(self.fold))
        other.memory, other.means, other.ridge = self.memory.aside(), self.means.copy(), self.ridge.copy()
        other.keys, other._class_of, other.learned = self.keys, dict(self._class_of), self.learned
        other.taught, other._judged = deepcopy(self.taught), self._judged
        other.bounded = self.bounded.aside(other)
        return other

    def without(self, rows: Iterable[int], born: Sequence[tuple[int, str]]) -> Head:
        """Return a head that answers, solved, as this one would if rows were forgotten; `born` as for `forget`."""
        other = self.aside()
        other.retire_rows(list(rows))
        other.age(_ids(born))
        other.solve()
        return other

    def snapshot(self) -> HeadSnapshot:
        """Freeze what answers now; call after `index`, between two batches."""
        memory = self.memory
        classes = len(self.labels)
        counts = torch.zeros(classes, dtype=torch.int64)
        counts[: len(self.means.counts)] = self.means.counts[:classes]
        return HeadSnapshot(
            labels=tuple(self.labels),
            classes={label: place for place, label in enumerate(self.labels)},
            counts=counts.numpy(),
            features=self.features,
            ridge=self._b,
            solved=self._solved,
            centres=self.means.centres(self.adapter, classes),
            adapter=self.adapter,
            log_value=(self.adapter.values(self.labels) + balance(self._found(classes))).numpy(),
            rates=self._rates(classes),
            trust=self.fold.trusted(self.learned).numpy(),
            rule=self.fold.rule,
            temperature=self.fold.temperature,
            keys=self.keys,
            alive=bitmap(memory.retrievable),
            neighbours=self.options.neighbours,
            targets=memory.targets,
            origins=memory.origins,
            order=memory.order,
            learned=self.learned,
            rows=memory.ids,
            events=memory.events,
            sources=memory.sources,
            limits=self.options.limits(self.fold),
            kind=self.options.kind,
        )

    def _found(self, classes: int) -> Tensor:
        """Return how many rows of each class attention can find."""
        targets = self.memory.targets[: self.memory.size][self.memory.retrievable]
        return torch.from_numpy(np.bincount(targets, minlength=classes)[:classes])

    def shadow(self) -> Shadow:
        """Return what answers now, to be kept up beside what is to answer from now on."""
        return Shadow(self.adapter, deepcopy(self.fold))

    def keep_up(self, shadow: Shadow) -> None:
        """Append to a shadow's index the rows that it lacks; between two batches only (the inference thread may search it)."""
        keys, size = self.other_index(shadow.adapter), self.memory.size
        keys.add(shadow.adapter.keys(self.memory.vectors[len(keys) : size]))

    def other_index(self, adapter: Adapter) -> Keys:
        """Return the index of the adapter before this one, made anew where it is not there."""
        if self._other is None or not adapter.same(self._other[0]):
            self._other = adapter, self.rebuilt(adapter)
        return self._other[1]

    def under(self, shadow: Shadow, serving: HeadSnapshot) -> HeadSnapshot:
        """Return what would answer had a shadow stayed, which kept up: rows and ridge are those of what answers now."""
        adapter, fold, keys = shadow.adapter, shadow.fold, self.other_index(shadow.adapter)
        fold.grow(len(serving.labels))
        balanced = serving.log_value - serving.adapter.values(serving.labels).numpy()
        return replace(
            serving,
            adapter=adapter,
            keys=keys,
            centres=self.means.centres(adapter, len(serving.labels)),
            log_value=balanced + adapter.values(serving.labels).numpy(),
            trust=fold.trusted(serving.learned).numpy(),
            rule=fold.rule,
            temperature=fold.temperature,
            limits=self.options.limits(fold),
        )

    def _rates(self, classes: int) -> Floats:
        """Return how much of each class comes now against how much there is, both smoothed by half a row."""
        memory, gone = self.memory, self.bounded.gone.rows
        slots, places = np.flatnonzero(memory.alive[: memory.size]), np.flatnonzero(gone["alive"])
        targets = np.concatenate([memory.targets[slots], gone["target"][places]])
        order = np.concatenate([memory.order[slots], gone["order"][places]])
        half_life = min(RATE_HALF_LIFE, max(1.0, self.learned / LATELY))
        recent = np.bincount(targets, 0.5 ** ((self.learned - order) / half_life), classes)[:classes]
        total = np.bincount(targets, minlength=classes)[:classes]
        share = (total + 0.5) / max(len(targets), 1)
        rates: Floats = ((recent + 0.5) / max(recent.sum(), 1e-9) / share).astype(np.float32)
        return rates

    # -- files ------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, bytes]:
        """Return the version files: the adapter, and the head as it answers."""
        facts = {"labels": self.labels, "learned": self.learned, "features": self._shape(), **self.fold.facts()}
        tensors = {"ridge": self._b, "solved": self._solved, "trust": self.fold.trust, "trust_at": self.fold.at,
                   "recent": self.fold.recent.tensor()}
        return {"adapter": files.dump_adapter(self.adapter), "head": files.dump(tensors, facts)}

    def is_solved(self) -> bool:
        """Say whether the ridge answers for the rows that are alive, or there are none."""
        return bool(self._solved.sum() > 0) or not self._knows

    def load_head(self, data: bytes, name: str, *, solved: bool = True) -> None:
        """Take over labels, folds and, where it was `solved` over the rows that it is for, the ridge of our features."""
        tensors, facts = files.parse(data, name)
        self.fold.load(tensors["trust"], tensors["trust_at"], facts, tensors.get("recent"))
        self.set_labels(facts["labels"])
        if solved and facts["features"] == self._shape():
            self._b, self._solved = tensors["ridge"], tensors["solved"]
        else:
            self._b, self._solved = torch.zeros(self.options.features, 0), torch.zeros(0, dtype=torch.int64)
        self.learned = int(facts["learned"])

    def _shape(self) -> list[Any]:
        """What statistics must agree in to be of the same random features."""
        return [self.options.dim, self.options.features, self.options.seed, KIND]

    def set_labels(self, labels: Sequence[str]) -> None:
        """Answer with these labels, in this order. Others that dead rows have are hidden behind them.

        Invariant: a lineage's labels stand in the order of their first birth, so a rollback gives back the very
        arrays that answered then.
        """
        labels = list(dict.fromkeys(class_name(self.options.kind, label) for label in labels))
        before = list(self._class_of)
        every = list(dict.fromkeys([*labels, *before]))
        place = np.array([every.index(label) for label in before], dtype=np.int32)
        if not np.array_equal(place, np.arange(len(place))):
            used = np.arange(len(self.memory.targets)) < self.memory.size
            self.memory.targets = np.where(used, place[self.memory.targets], 0).astype(np.int32)
            self.memory.origins = np.where(used, place[self.memory.origins], 0).astype(np.int32)
            self.bounded.renumber(place)
            self.means.renumber(torch.from_numpy(place.astype(np.int64)), len(every))
            self.ridge.renumber(torch.from_numpy(place.astype(np.int64)), len(every))
        self.labels = labels
        self._class_of = {label: index for index, label in enumerate(every)}
        self.fold.grow(len(self.labels))

    def checkpoint(self) -> tuple[bytes, bytes]:
        """Return (statistics, index) as files: derived state that spares the next start its work.

        Sums that are far behind the rows (after a rollback) stay out: the next start makes them.
        """
        sums = {} if self.sync(CATCH_UP) else self.ridge.state()
        memory = self.memory
        size = memory.size
        tensors = {
            "ids": torch.from_numpy(memory.ids[:size]),
            "order": torch.from_numpy(memory.order[:size]),
            "alive": torch.from_numpy(memory.retrievable),
            "evicted": torch.from_numpy(self.bounded.evicted_ids()),
            "summed": torch.from_numpy(memory.summed[:size]),
            "means": self.means.sums,
            "means_counts": self.means.counts,
            **{f"ridge.{name}": tensor for name, tensor in sums.items()},
        }
        return files.dump(tensors, {"labels": list(self._class_of), "features": self._shape()}), self.keys.dump()

    def restore(self, rows: NewRows, statistics: tuple[dict[str, Tensor], dict[str, Any]] | None, index: bytes | None,
                evicted: npt.NDArray[np.void] = NONE) -> None:
        """Fill an empty head with retrievable and evicted rows; statistics and index are used if they are for these rows."""
        if statistics is not None and self._from_checkpoint(rows, evicted, *statistics):
            self.keys = self._index(index)
            return
        learned = self.learned
        if len(rows.ids):
            self.enter(rows)
        self.bounded.fill(evicted, None)
        self.learned = max(learned, self.learned)
        self.keys = self.rebuilt(self.adapter)

    def _index(self, data: bytes | None) -> Keys:
        """Return a stored index, or a new one where it is none of these rows, or of another kind."""
        if data is not None:
            with suppress(CorruptFile, RuntimeError):  # the latter is FAISS's
                keys = Keys(self.adapter.rank(self.options.dim), data)
                if len(keys) == self.memory.size:
                    return keys
        return self.rebuilt(self.adapter)

    def _from_checkpoint(self, rows: NewRows, evicted: npt.NDArray[np.void], tensors: dict[str, Tensor],
                         facts: dict[str, Any]) -> bool:
        ids, alive = tensors["ids"].numpy(), tensors["alive"].numpy()
        gone = tensors["evicted"].tolist() if "evicted" in tensors else []
        if facts["features"] != self._shape() or tensors["means"].dtype != self.means.sums.dtype:
            return False
        if facts["labels"] != list(self._class_of)[: len(facts["labels"])] or set(ids[alive].tolist()) != set(rows.ids):
            return False
        if set(gone) != set(evicted["id"].tolist()):
            return False
        self.memory = Memory.of(self.options.dim, ids, alive, rows)
        self.memory.order[: len(ids)] = tensors["order"].numpy()
        self.memory.summed[: len(ids)] = tensors["summed"].numpy() & alive  # an evicted row's sums are `bounded`'s
        self.tally(np.flatnonzero(alive), 1)
        self.means.sums, self.means.counts = tensors["means"], tensors["means_counts"]
        sums = {name.removeprefix("ridge."): tensor for name, tensor in tensors.items() if name.startswith("ridge.")}
        self.ridge.load(sums)
        if not sums or not _equal_counts(sums["counts"], self.means.counts):  # of other rows, or of none
            sums, self.ridge = {}, Ridge(self.options.features)
            self.memory.summed[:] = False
        self.bounded.fill(evicted, gone if sums else [])
        return True


def _equal_counts(one: Tensor, other: Tensor) -> bool:
    """Compare rows per class; a class without rows may not be there."""
    classes = max(len(one), len(other))
    return torch.equal(pad(one, (0, classes - len(one))), pad(other, (0, classes - len(other))))


def _ids(born: Sequence[tuple[int, str]]) -> Ints:
    return np.array([row for row, _ in born], np.int64)


def _blocks(slots: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return [slots[start : start + 256] for start in range(0, len(slots), 256)]
