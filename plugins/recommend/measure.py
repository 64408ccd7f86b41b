"""Taste beside popularity and matrix factorisation, by time: the figures of docs/recommend.md.

`python measure.py DATA` reads DATA/movielens100k. Every event is ranked before it is learned: each so many-th that a user liked
(4 or 5 stars) stands among 99 items that came before and that the user has not rated, drawn at random. The first fifth is not
counted: what is frozen learns it alone.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from adaptd import Ask, Example, Taught
from adaptd.model.encoder import Transformers
from adaptd.records import Candidate
from adaptd_recommend.taste import Taste

TOP, AMONG, EACH, REFIT, RANK = 10, 99, 100, 5000, 50


def main(data: Path) -> None:
    """Go through the stream once; print NDCG and hit rate at 10 of each method, and of taste by age of user and item."""
    items, ratings = read(data / "movielens100k")
    methods: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    taste, frozen, seen, fans = Taste(), Taste(), dict[int, set[int]](), np.zeros(len(items) + 1)
    known, drawn, svd, last = list[int](), np.random.RandomState(0), Svd(len(items) + 1), len(ratings) // 5

    def vectors(events: Sequence[int]) -> Mapping[int, Any]:
        return {event: items[int(ratings[event][1])].vector for event in events}

    for event, (user, item, stars) in enumerate(ratings.tolist()):
        mine = seen.setdefault(user, set())
        if stars >= 4 and event % EACH == 0 and event >= last and len(known) > 2 * AMONG + len(mine):
            others = [one for one in drawn.permutation(known).tolist() if one not in mine and one != item][:AMONG]
            asked = [*others, item]
            drawn.shuffle(asked)
            found = {"popularity": order(asked, fans[asked]), "matrix factorisation": order(asked, svd.scores(user, asked))}
            query = Ask(user=f"u{user}", candidates=[items[one] for one in asked], k=TOP)
            found |= {name: [int(one.id[1:]) for one in which.rank(query, vectors)]
                      for name, which in (("taste", taste), ("taste, frozen after a fifth", frozen))}
            mixed = Ask(user=f"u{user}", candidates=query.candidates, k=TOP, diversity=0.3)
            found["taste, diversity 0.3"] = [int(one.id[1:]) for one in taste.rank(mixed, vectors)]
            for name, ranked in found.items():
                methods[name].append(gain(ranked, item))
            kind = "new user (0 to 4 likes)" if len(mine) < 5 else "known user"
            methods[f"taste: {kind}"].append(gain(found["taste"], item))
            methods[f"matrix factorisation: {kind}"].append(gain(found["matrix factorisation"], item))
        if item not in svd.items:
            known.append(item)
        one = Taught(row=event, event=event, payload={"user": f"u{user}", **items[item].payload}, head="rating", label=int(stars))
        taste.learn(one)
        if event < last:
            frozen.learn(one)
        mine.add(item)
        fans[item] += stars >= 4
        svd.learn(user, item, stars >= 4)
    for name, each in methods.items():
        value, hit = np.mean(each, axis=0)
        print(f"{name}: NDCG@{TOP} {value:.4f}, hit rate {hit:.4f} "
              f"({len(each)} rankings)")


def read(folder: Path) -> tuple[dict[int, Candidate], Any]:
    """Return the items, each as a candidate with the vector of its title, and the ratings [n, (user, item, stars)]."""
    with gzip.open(folder / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    encoder = Transformers()
    encoder.load()
    texts = [Example(text=row["title"]) for row in rows]
    vectors = np.concatenate([encoder.encode(texts[at : at + 128])[0].float().numpy() for at in range(0, len(texts), 128)])
    items = {row["item"]: Candidate(id=f"i{row['item']}", vector=vector, payload={
        "item": f"i{row['item']}", "text": row["title"], "features": {"genre": row["genres"]}})
        for row, vector in zip(rows, vectors, strict=True)}
    ratings = np.load(folder / "ratings.npz")
    return items, np.stack([ratings["user"], ratings["item"], ratings["rating"]], 1).astype(np.int64)


class Svd:
    """PureSVD (Cremonesi et al., 2010) on likes, refitted every 5,000 events; a user is folded in by what was liked so far."""

    def __init__(self, items: int) -> None:
        self._items = items
        self._liked: dict[int, set[int]] = defaultdict(set)
        self._factors: Any = None
        self._new = 0
        self.items = set[int]()

    def learn(self, user: int, item: int, liked: bool) -> None:
        """Take in a rating; refit when it is time."""
        self.items.add(item)
        if liked:
            self._liked[user].add(item)
        self._new += 1
        if self._new % REFIT == 0:
            pairs = [(row, one) for row, liked_items in enumerate(self._liked.values()) for one in liked_items]
            rows, columns = zip(*pairs, strict=True)
            matrix = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(self._liked), self._items))
            self._factors = TruncatedSVD(min(RANK, matrix.shape[0] - 1), random_state=0).fit(matrix).components_

    def scores(self, user: int, asked: Sequence[int]) -> Any:
        """Return the scores of items for a user."""
        liked = list(self._liked.get(user, ()))
        if self._factors is None or not liked:
            return np.zeros(len(asked))
        return self._factors[:, liked].sum(1) @ self._factors[:, list(asked)]


def order(asked: Sequence[int], scores: Any) -> list[int]:
    """Return the best ten."""
    return [asked[at] for at in np.argsort(-np.asarray(scores), kind="stable")[:TOP].tolist()]


def gain(ranked: Sequence[int], item: int) -> tuple[float, bool]:
    """Return NDCG of one relevant item, and whether it is among the ten."""
    if item not in ranked:
        return 0.0, False
    return 1 / math.log2(2 + ranked.index(item)), True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
