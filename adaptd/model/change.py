"""Change: do examples that contradict a label look like its own? Then it is the label that changed, and its rows follow.

A new class beside an old one contradicts its answers too, for a while. Two things tell it from a label that changed its
meaning: its examples lie nearest to one another (a nearest-neighbour two-sample test; Schilling, 1986, Henze, 1988), and they
are less like the old ones than those are among themselves.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from adaptd.drift import Change, Record
from adaptd.model.attention import Floats, Ints, attend, softmax
from adaptd.model.network import Head

FEWEST = 4  # contradictions that are looked at
OLD = 10  # remembered examples that a label needs for it
OWN = 0.65  # chance that an example of a new class lies nearest to one of its own
TYPICAL, HEIGHT, LOW, HIGH = 0.675, 1.5, -3.0, 2.0  # what typicality z counts: HEIGHT z + TYPICAL, clipped
COST = 0.5  # of each contradiction
ENOUGH, ENOUGH_NEW = 5.0, 10.0  # evidence for a label that was known before, and for one that was not
MOSTLY = 0.8  # of the contradictions that have one label, and of the answers that were wrong: all rows follow
MOST = 1000  # newest rows that are looked at and that follow a label; others end
NEAR = 5  # neighbours that typicality is measured by


def changed(head: Head, name: str, label: str, record: Record, seq: int) -> Change | None:
    """Return the change that a label's contradictions are evidence for, with what its rows become; None: of none."""
    memory, target = head.memory, head.class_of(label)
    seen = [(memory.slot_of[row], truth) for row, truth in record.seen if row in memory.slot_of]
    seen = [(slot, truth) for slot, truth in seen if memory.alive[slot] and not memory.evicted[slot]]
    against = [(slot, truth) for slot, truth in seen if truth != label]
    kept = memory.retrievable
    old = np.flatnonzero(kept & (memory.targets[: memory.size] == target) & (memory.born[: memory.size] < record.since))
    if len(against) < FEWEST or len(old) < OLD:
        return None
    evidence, new = _likeness(head, old[-MOST:], against, record.since)
    if evidence < (ENOUGH_NEW if new else ENOUGH):
        return None
    labels = Counter(truth for _, truth in against)
    moves = _moves(head, old, seen, label, labels, record.since)
    return Change(head=name, label=label, seq=seq, since=record.since, labels=dict(labels.most_common()),
                  confirmed=len(seen) - len(against), evidence=evidence, moves=moves) if moves else None


def _likeness(head: Head, old: Ints, against: list[tuple[int, str]], since: int) -> tuple[float, bool]:
    """Return the evidence that examples are of the old ones' kind, and whether most of their labels are new."""
    memory = head.memory
    slots = np.array([slot for slot, _ in against])
    near = _similarities(head, slots, old)
    among = _similarities(head, old, old)
    np.fill_diagonal(among, -1.0)
    own, theirs = _closeness(among), _closeness(near)
    z = (theirs - own.mean()) / max(float(own.std()), 1e-3)
    total, news = 0.0, 0
    for place, (slot, truth) in enumerate(against):
        target = head.class_of(truth)
        same = memory.retrievable & (memory.targets[: memory.size] == target) & (memory.ids[: memory.size] < memory.ids[slot])
        news += not (same & (memory.born[: memory.size] < since)).any()
        fresh = np.union1d(np.flatnonzero(same), slots[:place])
        recent = int((memory.born[fresh] >= since).sum())
        chance = min(max(recent / (recent + len(old)), 0.02), 0.98)
        among_own = len(fresh) > 0 and _similarities(head, slots[place : place + 1], fresh).max() > near[place].max()
        total += math.log(chance / OWN if among_own else (1 - chance) / (1 - OWN))
        total += min(max(HEIGHT * float(z[place]) + TYPICAL, LOW), HIGH) - COST
    return total, 2 * news > len(against)


def _closeness(similar: Floats) -> Floats:
    """Return the mean similarity of the nearest ones [n] among [n, m]."""
    nearest: Floats = np.sort(similar, axis=1)[:, -NEAR:].mean(1)
    return nearest


def _similarities(head: Head, these: Ints, those: Ints) -> Floats:
    """Return the similarities [n, m] of slots as the attention that answers sees them."""
    vectors = head.memory.vectors
    similar: Floats = (head.adapter.queries(vectors[these]) @ head.adapter.queries(vectors[those]).T).numpy()
    return similar


def _moves(head: Head, old: Ints, seen: list[tuple[int, str]], label: str, labels: Counter[str],
           since: int) -> dict[int, str | None]:
    """Say what becomes of the old rows: all follow the one new label, else each what the examples like it are called now."""
    ids = head.memory.ids[old].tolist()
    (first, count), against = labels.most_common(1)[0], sum(labels.values())
    if count >= MOSTLY * against and against >= MOSTLY * len(seen):
        beyond = head.bounded.evicted_of(head.class_of(label), since)
        return dict.fromkeys([*beyond, *ids[:-MOST]]) | dict.fromkeys(ids[-MOST:], first)
    slots = np.array([slot for slot, _ in seen])
    names = list(dict.fromkeys(truth for _, truth in seen))
    weight = softmax(_similarities(head, old, slots) * np.float32(head.adapter.scale))
    place = np.tile([names.index(truth) for _, truth in seen], (len(old), 1))
    best = attend(weight, place, len(names)).argmax(1)
    return {row: names[c] for row, c in zip(ids, best.tolist(), strict=True) if names[c] != label}
