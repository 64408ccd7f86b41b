"""Taste: what is learned of users and items, and the order in which a user may like candidates. Pure; sums and sets alone.

A score adds up four things, each nothing where nothing is known, so that users and items count from their first event on: how
many like the item; how many of those who like what the user likes do (item-based neighbours; Sarwar et al., 2001, by shrunk
cosine); how like its text is to what the user likes; how much more often the user likes items with its features than all do.
What the user did not like comes last.
Diversity trades the score against likeness to what stands above (maximal marginal relevance; Carbonell and Goldstein, 1998).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptd import Ask, Ranked, Taught

Floats = npt.NDArray[np.float32]
Vectors = Callable[[Sequence[int]], Mapping[int, Floats]]
VALUES = {("click", "click"): 1.0, ("click", "skip"): -0.5, ("rating", 1): -1.0, ("rating", 2): -0.5, ("rating", 3): 0.0,
          ("rating", 4): 1.0, ("rating", 5): 1.0}
RECENT = 100  # likes of a user that are compared with, the newest
SHRUNK = 10.0  # how many fans in common count half
WEIGHTS = {"popularity": 1.0, "neighbours": 4.0, "text": 0.3, "features": 0.3, "disliked": 10.0}
NEAREST = 3  # likes whose text a candidate's is compared with


@dataclass(frozen=True)
class _Opinion:
    row: int
    event: int
    user: str
    item: str
    value: float
    features: frozenset[str]


class Taste:
    """All that users made of items."""

    name = "taste"

    def __init__(self) -> None:
        self._rows: dict[int, _Opinion] = {}
        self._users: dict[str, dict[str, dict[int, _Opinion]]] = {}  # user -> item -> row -> opinion, in order
        self._items: dict[str, dict[int, _Opinion]] = {}
        self._bits: dict[str, int] = {}  # user -> place in the sets
        self._fans: dict[str, int] = {}  # item -> the set of users who like it, as bits
        self._features: Counter[str] = Counter()  # of what is liked, over all users
        self._likes = 0

    # -- learn and unlearn -------------------------------------------------------------------------------------

    def learn(self, one: Taught) -> None:
        """Take in what a user made of an item."""
        user, item = one.payload.get("user"), one.payload.get("item")
        value = VALUES.get((one.head, one.label))
        if not isinstance(user, str) or not isinstance(item, str) or value is None:
            return
        opinion = _Opinion(one.row, one.event, user, item, value, flat(one.payload))
        self._change(opinion, lambda opinions: opinions.update({one.row: opinion}))
        self._rows[one.row] = opinion
        self._items.setdefault(item, {})[one.row] = opinion

    def unlearn(self, row: int) -> None:
        """Take it out again, as if it had never come."""
        if (opinion := self._rows.pop(row, None)) is None:
            return
        self._change(opinion, lambda opinions: opinions.pop(row))
        del self._items[opinion.item][row]
        if not self._items[opinion.item]:
            del self._items[opinion.item], self._fans[opinion.item]

    def _change(self, opinion: _Opinion, change: Callable[[dict[int, _Opinion]], Any]) -> None:
        """Change a user's opinions of an item; the newest decides whether it is liked."""
        opinions = self._users.setdefault(opinion.user, {}).setdefault(opinion.item, {})
        before = _liked(opinions)
        change(opinions)
        after = _liked(opinions)
        if not opinions:
            del self._users[opinion.user][opinion.item]
            if not self._users[opinion.user]:
                del self._users[opinion.user]
        bit = 1 << self._bits.setdefault(opinion.user, len(self._bits))
        fans = self._fans.get(opinion.item, 0)
        self._fans[opinion.item] = fans | bit if after else fans & ~bit
        self._count(before, -1)
        self._count(after, 1)

    def _count(self, liked: _Opinion | None, sign: int) -> None:
        if liked is not None:
            self._likes += sign
            for feature in liked.features:
                self._features[feature] += sign

    # -- rank --------------------------------------------------------------------------------------------------

    def rank(self, ask: Ask, vectors: Vectors) -> Sequence[Ranked]:
        """Order candidates for a user."""
        if not ask.candidates:
            return []
        likes = list(self._likes_of(ask.user))
        texts = _units([*(one.vector for one in ask.candidates), *self._texts(likes, vectors)])
        mine, theirs = texts[: len(ask.candidates)], texts[len(ask.candidates) :]
        parts = {"popularity": self._popularity(ask), "neighbours": self._neighbours(ask, likes),
                 "text": _nearest(mine @ theirs.T), "features": self._lift(ask, likes), "disliked": self._disliked(ask)}
        score = np.asarray(sum(WEIGHTS[name] * part for name, part in parts.items()), np.float32)
        order = _diverse(score, mine, ask.k, ask.diversity)
        return [Ranked(id=ask.candidates[at].id, score=round(float(score[at]), 6),
                       why={name: round(float(WEIGHTS[name] * part[at]), 6) for name, part in parts.items()}) for at in order]

    def _likes_of(self, user: str) -> Iterator[_Opinion]:
        """Yield what a user likes, the newest first."""
        liked = [one for opinions in self._users.get(user, {}).values() if (one := _liked(opinions)) is not None]
        yield from sorted(liked, key=lambda one: -one.row)[:RECENT]

    def _texts(self, likes: Sequence[_Opinion], vectors: Vectors) -> list[Floats]:
        """Return the vectors of what is liked: of each item's oldest event."""
        events = [self._items[one.item][min(self._items[one.item])].event for one in likes]
        found = vectors(sorted(set(events)))
        return [found[event] for event in events if event in found]

    def _popularity(self, ask: Ask) -> Floats:
        fans = np.array([self._fans.get(one.id, 0).bit_count() for one in ask.candidates], np.float32)
        return np.asarray(np.log1p(fans) / math.log1p(max(1, len(self._users))), np.float32)

    def _neighbours(self, ask: Ask, likes: Sequence[_Opinion]) -> Floats:
        found = np.zeros(len(ask.candidates), np.float32)
        known = [(fans, fans.bit_count()) for one in likes if (fans := self._fans.get(one.item, 0))]
        for at, candidate in enumerate(ask.candidates):
            fans = self._fans.get(candidate.id, 0)
            count = fans.bit_count()
            for other, size in known if count else ():
                both = (fans & other).bit_count()
                found[at] += both / math.sqrt(count * size) * both / (both + SHRUNK)
        return found / math.sqrt(max(1, len(known)))

    def _disliked(self, ask: Ask) -> Floats:
        opinions = [self._users.get(ask.user, {}).get(one.id, {}) for one in ask.candidates]
        return np.array([min(0.0, one[max(one)].value) if one else 0.0 for one in opinions], np.float32)

    def _lift(self, ask: Ask, likes: Sequence[_Opinion]) -> Floats:
        """Return by how much more often the user likes what has the candidate's features, the mean over them."""
        mine = Counter(feature for one in likes for feature in one.features)
        lift = {feature: mine[feature] / (len(likes) + 5) - self._features[feature] / max(1, self._likes) * len(likes) /
                (len(likes) + 5) for feature in mine}
        each = (flat(one.payload) for one in ask.candidates)
        return np.array([math.fsum(lift.get(feature, 0.0) for feature in has) / max(1, len(has)) for has in each], np.float32)


def flat(payload: Mapping[str, Any]) -> frozenset[str]:
    """Return the features of an item, each with its name.

    >>> sorted(flat({"features": {"genre": ["Comedy", "War"], "year": "1995"}}))
    ['genre=Comedy', 'genre=War', 'year=1995']
    """
    given = payload.get("features") or {}
    return frozenset(f"{name}={one}" for name, value in given.items() for one in ([value] if isinstance(value, str) else value))


def _liked(opinions: Mapping[int, _Opinion]) -> _Opinion | None:
    """Return the newest opinion if it is a good one."""
    newest = opinions[max(opinions)] if opinions else None
    return newest if newest is not None and newest.value > 0 else None


def _units(vectors: Sequence[Floats]) -> Floats:
    """Return vectors [n, dim] of unit length about their mean."""
    made = np.stack(vectors).astype(np.float32)
    made -= made.mean(0)
    return np.asarray(made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-6), np.float32)


def _nearest(similar: Floats) -> Floats:
    """Return the mean similarity of the nearest ones [n] among [n, m]; nothing where there are none."""
    if not similar.shape[1]:
        return np.zeros(len(similar), np.float32)
    return np.asarray(np.sort(similar, axis=1)[:, -NEAREST:].mean(1), np.float32)


def _diverse(score: Floats, texts: Floats, k: int, diversity: float) -> list[int]:
    """Choose k places: by score, less their likeness to those that were chosen; equal ones in the order in which they came."""
    spread = float(score.max() - score.min()) or 1.0
    worth = (score - score.min()) / spread
    chosen: list[int] = []
    likeness = np.zeros(len(score), np.float32)
    left = np.ones(len(score), bool)
    while len(chosen) < min(k, len(score)):
        best = int(np.where(left, (1 - diversity) * worth - diversity * likeness, -np.inf).argmax())
        chosen.append(best)
        left[best] = False
        likeness = np.maximum(likeness, texts @ texts[best])
    return chosen
