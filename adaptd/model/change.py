"""Change: do examples that contradict a label look like its own? Then it is the label that changed, and its rows follow.

A new class beside an old one contradicts its answers too, for a while. Two things tell it from a label that changed its
meaning: its examples lie nearest to one another (a nearest-neighbour two-sample test; Schilling, 1986, Henze, 1988), and they
are less like the old ones than those are among themselves.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from adaptd.drift import Change, Drift, Kind
from adaptd.model.attention import Floats, Ints, attend, softmax
from adaptd.model.decoder import Opinions
from adaptd.model.network import Head
from adaptd.model.snapshot import HeadSnapshot

FEWEST = 4  # contradictions with one label that are looked at
OLD = 10  # remembered examples that a label needs for it, and with which it is no new one
CONFIRMED = 2  # answers that a source confirmed, and contradicted none
SURE = 0.98  # no chance is taken for more
OWN = 0.65  # chance that an example of a new class lies nearest to one of its own
TYPICAL, HEIGHT, LOW, HIGH = 0.675, 1.5, -3.0, 2.0  # what typicality z counts: HEIGHT z + TYPICAL, clipped
COST = 0.5  # of each contradiction
ENOUGH, ENOUGH_NEW = 5.0, 10.0  # evidence for a label that was known before, and for one that was not
MOSTLY = 0.8  # of the labels of now that are one: all rows follow it
MOST, LOOKED = 1000, 300  # newest rows that follow a label (others end), and that are compared
NEAR = 5  # neighbours that typicality is measured by


def spoke(said: Opinions, place: int, head: HeadSnapshot) -> Kind:
    """Return the label that is answered, and what the neighbours of that label which weighed most were called first."""
    best, slots = int(said.pooled[place].argmax()), said.slots[place]
    mine = (slots >= 0) & (head.targets[slots] == best)
    if not mine.any():
        return head.labels[best], head.labels[best]
    weight = np.bincount(head.origins[slots[mine]], said.weight[place][mine])
    return head.labels[best], head.labels[int(weight.argmax())]


def changed(head: Head, name: str, kind: Kind, drift: Drift, seq: int) -> Change | None:
    """Return the change that contradictions of a kind of rows are evidence for, with what those become; None: of none."""
    memory, (label, origin), record = head.memory, kind, drift.records[name][kind]
    seen = [(memory.slot_of[row], truth) for row, truth in record.seen if row in memory.slot_of]
    seen = [(slot, truth) for slot, truth in seen if memory.alive[slot] and not memory.evicted[slot]]
    here = memory.retrievable & (memory.targets[: memory.size] == head.class_of(label))
    here &= memory.origins[: memory.size] == head.class_of(origin)
    old = np.flatnonzero(here & (memory.born[: memory.size] < record.since))
    old = old[~np.isin(memory.ids[old], list(drift.disputing(name)))]
    if len(old) < OLD or _are_at_odds(head, seen, label):
        return None
    labels = Counter(truth for _, truth in seen)
    confirmed = labels.pop(label, 0)
    taken = {truth: _taken_over(head, old[-LOOKED:], [slot for slot, one in seen if one == truth], record.since)
             for truth, count in labels.items() if count >= FEWEST}
    taken = {truth: found for truth, found in taken.items() if found >= 0.0}
    if not taken:
        return None
    first = max(taken, key=lambda truth: labels[truth])
    whole = labels[first] >= MOSTLY * (sum(labels[truth] for truth in taken) + confirmed)
    voting = [(slot, truth) for slot, truth in seen if truth == label or truth in taken]
    moves = _follow(head, old, first, kind, record.since) if whole else _divide(head, old, voting, label)
    return Change(head=name, label=label, origin=origin, seq=seq, since=record.since, labels=dict(labels.most_common()),
                  confirmed=confirmed, evidence=max(taken.values()), whole=whole, moves=moves) if moves else None


def _are_at_odds(head: Head, seen: list[tuple[int, str]], label: str) -> bool:
    """Say whether a source only confirms what others contradict: then it is a dispute, and the world need not have changed."""
    said = Counter((head.memory.sources[slot], truth == label) for slot, truth in seen)
    return any(right and count >= CONFIRMED and not said[source, False] for (source, right), count in said.items())


def _taken_over(head: Head, old: Ints, slots: list[int], since: int) -> float:
    """Return by how much the evidence is enough that these, of one label, are of the old ones' kind; negative: it is not.

    The evidence is the logarithm of a likelihood ratio. An example lies nearest to one of its own label with chance OWN if
    that is a class beside the old one; if it is of the old kind, as often as chance has it among those that came since.
    """
    memory, size, these = head.memory, head.memory.size, np.array(slots)
    target = memory.targets[these[0]]
    mine = memory.retrievable & (memory.targets[:size] == target)
    near, among = _similarities(head, these, old), _similarities(head, old, old)
    np.fill_diagonal(among, -1.0)
    own = _closeness(among)
    z = (_closeness(near) - own.mean()) / max(float(own.std()), 1e-3)
    total = -ENOUGH if _was_there(head, int(target), since) else -ENOUGH_NEW
    for place, slot in enumerate(slots):
        others = np.flatnonzero(mine & (memory.ids[:size] < memory.ids[slot]))[-LOOKED:]
        recent = int((memory.born[others] >= since).sum())
        chance = min(max(recent / (recent + len(old)), 1 - SURE), SURE)
        nearest = _similarities(head, these[place : place + 1], others).max(initial=-1.0)
        total += math.log(chance / OWN if nearest > near[place].max() else (1 - chance) / (1 - OWN))
        total += min(max(HEIGHT * float(z[place]) + TYPICAL, LOW), HIGH) - COST
    return total


def _was_there(head: Head, target: int, since: int) -> bool:
    """Say whether a class is one of before; its rows may have followed another one since."""
    memory, size = head.memory, head.memory.size
    first = memory.retrievable & (memory.origins[:size] == target)
    return int((first & ((memory.targets[:size] != target) | (memory.born[:size] < since))).sum()) >= OLD


def _closeness(similar: Floats) -> Floats:
    """Return the mean similarity of the nearest ones [n] among [n, m]."""
    nearest: Floats = np.sort(similar, axis=1)[:, -NEAR:].mean(1)
    return nearest


def _similarities(head: Head, these: Ints, those: Ints) -> Floats:
    """Return the similarities [n, m] of slots as the attention that answers sees them."""
    vectors = head.memory.vectors
    similar: Floats = (head.adapter.queries(vectors[these]) @ head.adapter.queries(vectors[those]).T).numpy()
    return similar


def _follow(head: Head, old: Ints, to: str, kind: Kind, since: int) -> dict[int, str | None]:
    """Let the newest old rows follow a label, and others end: those beyond the memory's bounds too."""
    ids = head.memory.ids[old].tolist()
    beyond = head.bounded.evicted_of(head.class_of(kind[0]), since) if kind[0] == kind[1] else []
    return dict.fromkeys([*beyond, *ids[:-MOST]]) | dict.fromkeys(ids[-MOST:], to)


def _divide(head: Head, old: Ints, seen: list[tuple[int, str]], label: str) -> dict[int, str | None]:
    """Let each old row take the label that the examples like it have now."""
    slots, names = np.array([slot for slot, _ in seen]), list(dict.fromkeys(truth for _, truth in seen))
    weight = softmax(_similarities(head, old, slots) * np.float32(head.adapter.scale))
    place = np.tile([names.index(truth) for _, truth in seen], (len(old), 1))
    best = attend(weight, place, len(names)).argmax(1)
    return {row: names[c] for row, c in zip(head.memory.ids[old].tolist(), best.tolist(), strict=True) if names[c] != label}
