"""Dissent: does a label contradict what is remembered around it? Asked before it is learned, of its neighbours' labels.

The attention that answers is asked, once of the neighbours that other sources taught and once of all. They contradict
the label when more than half of their weight lies on another one. A label of which there are few rows by them is new, and
no contradiction; where no label has half of the weight, or a tenth of it lies on the label itself, they are not of one
mind and have nothing clear to say.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adaptd.model.attention import Floats, attend
from adaptd.model.decoder import Opinions
from adaptd.model.fold import TRUST_FROM
from adaptd.model.snapshot import HeadSnapshot
from adaptd.quarantine import Dissent
from adaptd.records import Row, event_of
from adaptd.weak import is_weak

CLEAR, SPLIT = 0.5, 0.1


def dissent(said: Opinions, place: int, row: Row, target: int, head: HeadSnapshot,
            taught: Mapping[str, Mapping[str, int]]) -> Dissent:
    """Hold a label against its neighbours; `taught` counts retrievable rows per label and source."""
    slots = said.slots[place]
    others = (slots >= 0) & (event_of(head.events[slots]) != row.event)  # not what it corrects
    others &= ~np.array([is_weak(head.sources[slot]) for slot in slots.tolist()], dtype=np.bool_)
    weight = np.where(others, said.weight[place], np.float32(0))
    theirs = np.array([head.sources[slot] != row.source for slot in slots.tolist()], dtype=np.bool_)
    by = {source: n for source, n in taught.get(row.target, {}).items() if not is_weak(source)}
    rows = sum(by.values())
    opinions = attend(np.stack([weight * theirs, weight]), head.targets[np.stack([slots, slots])], len(head.labels))
    return Dissent(from_others=_contradicts(opinions[0], target) if rows - by.get(row.source, 0) >= TRUST_FROM else None,
                   from_all=_contradicts(opinions[1], target) if rows >= TRUST_FROM else None)


def _contradicts(weight: Floats, target: int) -> bool | None:
    """Say whether most of the weight [C] lies on another class; None when it lies on none, or a tenth on this one too."""
    best, total = int(weight.argmax()), weight.sum()
    if weight[best] <= CLEAR * total:
        return None
    return None if best != target and weight[target] > SPLIT * total else best != target
