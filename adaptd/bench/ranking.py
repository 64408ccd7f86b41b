"""Ranking: what users may like, over a stream of ratings in the order of time, beside popularity and matrix factorisation.

In-process, with the domain's own ranker, which plugins give by name; what it costs is taken from a daemon, over HTTP.
Of every hundred ratings the first, where the user liked the item, is ranked among 99 items that came before and that the user has
not rated; then they are learned. Those of the first fifth are never taught: they are ranked when it is over and at the end, and
what they lost is forgetting. What is frozen has learned the first fifth alone. A factorisation that is fitted anew before each
ranking is what retraining from scratch gives.
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adaptd import plugins
from adaptd.bench import sets
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools
from adaptd.bench.sets import Setting
from adaptd.bench.speed import milliseconds
from adaptd.bench.streams import Ints
from adaptd.config import DomainSettings
from adaptd.records import Ask, Candidate, Example, Taught

TOP, AMONG, EACH, LIKED = 10, 99, 100, 4  # places that count; other items; of so many ratings one is ranked; stars of a like
REFIT, RANK, FEW, DIVERSITY = 5000, 50, 5, 0.3  # ratings between two fits, its rank; ratings of a user who is new
EVENT_S, TURNS = 0.003, 5  # to say beforehand how long it takes; hundreds of ratings whose cost is measured
MIXED = f"adaptd, diversity {DIVERSITY}"
RECOMMEND = Setting(domain="recommend", config="""
[plugins]
allow = ["adaptd-recommend"]
[domains.recommend]
""")
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A ranking: the item that the user liked stands among others."""

    user: int
    item: int
    items: Sequence[int]
    new: bool  # whether the user has rated few


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Ratings in the order of time, (user, item, stars) each, and what is ranked before which of them."""

    items: Mapping[int, Json]  # payloads
    ratings: Ints
    first: int  # ratings of the first fifth
    asked: Mapping[int, Asked]

    @property
    def held(self) -> list[Asked]:
        """What is ranked and never taught."""
        return [one for at, one in self.asked.items() if at < self.first]


def prepare(run: Run) -> Stream:
    """Read ratings; draw what is ranked by the seed."""
    folder = sets.data_folder(run.data) / run.set
    with gzip.open(folder / "items.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    items = {row["item"]: {"item": f"i{row['item']}", "text": row["title"], "features": {"genre": row["genres"]}} for row in rows}
    ratings = _ratings(folder / "ratings.npz")[: 4 * QUICK_EVENTS if run.quick else run.events]
    first = len(ratings) // 5 // EACH * EACH
    return Stream(items=items, ratings=ratings, first=first, asked=_drawn(ratings, first, np.random.RandomState(run.seed)))


def _ratings(file: Path) -> Ints:
    with np.load(file, allow_pickle=False) as arrays:
        return np.stack([arrays["user"], arrays["item"], arrays["rating"]], 1).astype(np.int64)


def _drawn(ratings: Ints, first: int, random: np.random.RandomState) -> dict[int, Asked]:
    ever, rated, known = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set), dict[int, None]()
    for user, item, _ in ratings.tolist():
        ever[user].add(item)
    asked = {}
    for at, (user, item, stars) in enumerate(ratings.tolist()):
        mine = ever[user] if at < first else rated[user]  # what is ranked at the end, too, stands among none that came meanwhile
        if stars >= LIKED and at % EACH == 0 and len(known) > 2 * AMONG + len(mine):
            others = [one for one in random.permutation(list(known)).tolist() if one not in mine and one != item][:AMONG]
            mixed = random.permutation([*others, item]).tolist()
            asked[at] = Asked(user=user, item=item, items=mixed, new=len(rated[user]) < FEW)
        if at not in asked or at >= first:
            rated[user].add(item)
            known[item] = None
    return asked


def expected_s(run: Run) -> float:
    """Say how long it takes; the fits for each ranking are most of it."""
    return 60 + len(prepare(run).ratings) * EVENT_S


def measure(run: Run, tools: Tools) -> Json:
    """Rank and learn, a hundred ratings at a time: the domain's ranker, the same that stops learning, and the others."""
    stream, gains = prepare(run), defaultdict[str, list[tuple[Asked, float]]](list)
    candidates = _candidates(stream, tools, run.name)
    ours, frozen = Own(candidates), Own(candidates)
    ways: Mapping[str, Way] = {"adaptd": ours, "adaptd, frozen after a fifth": frozen, "popularity": Popularity(),
                               f"matrix factorisation, each {REFIT:,} ratings": Factorisation(REFIT),
                               "matrix factorisation, anew for each ranking": Factorisation(1)}
    with tools.task(f"{run.name}: adaptd and the others", len(stream.ratings)) as advance:
        for start in range(0, len(stream.ratings), EACH):
            if start == stream.first:
                gains["early"] = [(one, gain(ours.ranked(one), one.item)) for one in stream.held]
            one = stream.asked.get(start)
            if one and start >= stream.first:
                for name, way in ways.items():
                    gains[name].append((one, gain(way.ranked(one), one.item)))
                gains[MIXED].append((one, gain(ours.ranked(one, DIVERSITY), one.item)))
            taught = stream.ratings[start + (one is not None and start < stream.first):start + EACH]
            for way in ways.values():
                if way is not frozen or start < stream.first:
                    way.learn(taught)
            advance(len(taught))
    lost = _mean(gains.pop("early")) - _mean([(one, gain(ours.ranked(one), one.item)) for one in stream.held])
    news = [one.new for one, _ in gains["adaptd"]]
    return {"rows": [{"method": name, "NDCG@10": _mean(each), "hit rate@10": _hits(each),
                      **{f"NDCG@10, {kind}": _mean([pair for pair in each if pair[0].new == new])
                         for kind, new in (("new users", True), ("known users", False))},
                      "forgetting": lost if name == "adaptd" else None} for name, each in gains.items()],
            "remark": f"{len(news)} rankings, {sum(news)} of them for new users; {len(stream.held)} of which forgetting is read "
                      f"off. {_costs(run, tools, stream)}"}


def _candidates(stream: Stream, tools: Tools, name: str) -> dict[int, Candidate]:
    with tools.task(f"{name}: encoding", len(stream.items)) as advance:
        vectors = tools.encoded.layers([payload["text"] for payload in stream.items.values()], advance).astype(np.float32)
    return {item: Candidate(id=payload["item"], payload=payload, vector=vector)
            for (item, payload), vector in zip(stream.items.items(), vectors, strict=True)}


def _costs(run: Run, tools: Tools, stream: Stream) -> str:
    """Say what a rating and a ranking cost over HTTP, beside the bare encoder; in turns, medians."""
    encoder, took = tools.encoded.encoder, defaultdict[str, list[float]](list)
    with Daemon(adapt=run.adapt, setting=RECOMMEND) as daemon, tools.task(f"{run.name}: costs", TURNS) as advance:
        for turn, one in zip(range(TURNS), itertools.cycle(stream.asked.values())):
            taught = stream.ratings[turn * EACH:(turn + 1) * EACH].tolist()
            payloads = [{"user": f"u{user}", **stream.items[item]} for user, item, _ in taught]
            asked = {"user": f"u{one.user}", "k": TOP, "candidates": [stream.items[item] for item in one.items]}
            titles = [Example(text=payload["text"]) for payload in payloads]
            took["rating"].append(milliseconds(partial(daemon.learn, payloads, [{"rating": stars} for _, _, stars in taught])))
            took["ranking"].append(milliseconds(partial(daemon.main.call, "POST", "/v1/recommend/rank", asked)))
            took["title"].append(milliseconds(partial(encoder.encode, titles)))
            advance(1)
    rating, ranking, title = (float(np.median(took[what])) for what in ("rating", "ranking", "title"))
    return (f"Over HTTP, medians beside encoding a hundred titles at once ({title:.0f} ms): a hundred ratings, learned, "
            f"{rating / title:.2f} times, a ranking of a hundred items {ranking / title:.2f} times.")


def gain(ranked: Sequence[int], item: int) -> float:
    """Return the NDCG of the one item that is relevant (Järvelin and Kekäläinen, 2002); 0: it is not among the first.

    >>> gain([4, 7], 4), gain([4, 7], 9)
    (1.0, 0.0)
    """
    return 1 / math.log2(2 + ranked.index(item)) if item in ranked else 0.0


def _mean(gains: Sequence[tuple[Asked, float]]) -> float:
    return 100 * float(np.mean([value for _, value in gains])) if gains else math.nan


def _hits(gains: Sequence[tuple[Asked, float]]) -> float:
    return _mean([(one, float(value > 0)) for one, value in gains])


class Way(Protocol):
    """Learns ratings and ranks."""

    def learn(self, ratings: Ints) -> None:
        """Learn (user, item, stars), in order."""
        ...

    def ranked(self, one: Asked) -> list[int]:
        """Return the best items."""
        ...


class Own:
    """The ranker of the domain, which follows learned rows as it does in a daemon (`adaptd/ranking.py`)."""

    def __init__(self, candidates: Mapping[int, Candidate]) -> None:
        kinds = plugins.collect(plugins.load("adaptd", ["adaptd-recommend"]), "register_domains")
        made = plugins.domain(kinds, RECOMMEND.domain, DomainSettings()).ranker
        assert made is not None
        self._ranker = made()
        self._candidates = candidates
        self._items: list[int] = []  # of each event

    def learn(self, ratings: Ints) -> None:
        """Take in rows, each of an event of its own."""
        for user, item, stars in ratings.tolist():
            event = len(self._items)
            self._items.append(item)
            self._ranker.learn(Taught(row=event, event=event, payload={"user": f"u{user}", **self._candidates[item].payload},
                                      head="rating", label=stars))

    def ranked(self, one: Asked, diversity: float = 0.0) -> list[int]:
        """Ask it."""
        asked = [self._candidates[item] for item in one.items]
        found = self._ranker.rank(Ask(user=f"u{one.user}", candidates=asked, k=TOP, diversity=diversity), self._vectors)
        return [int(each.id[1:]) for each in found]

    def _vectors(self, events: Sequence[int]) -> Mapping[int, Any]:
        return {event: self._candidates[self._items[event]].vector for event in events}


class Popularity:
    """How many like an item."""

    def __init__(self) -> None:
        self._fans = Counter[int]()

    def learn(self, ratings: Ints) -> None:
        """Count likes."""
        self._fans.update(item for _, item, stars in ratings.tolist() if stars >= LIKED)

    def ranked(self, one: Asked) -> list[int]:
        """Return what most like."""
        return sorted(one.items, key=lambda item: -self._fans[item])[:TOP]


class Factorisation:
    """PureSVD (Cremonesi et al., 2010) on likes, fitted again when so many ratings are new; users by what they liked so far."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._liked = defaultdict[int, set[int]](set)
        self._new = 0
        self._factors = np.zeros((0, 1))

    def learn(self, ratings: Ints) -> None:
        """Take in ratings."""
        self._new += len(ratings)
        for user, item, stars in ratings.tolist():
            if stars >= LIKED:
                self._liked[user].add(item)

    def ranked(self, one: Asked) -> list[int]:
        """Return the items that are nearest to what the user liked."""
        if self._new >= self._every:
            self._fit()
        liked = [item for item in self._liked[one.user] if item < self._factors.shape[1]]
        known = [item if item < self._factors.shape[1] else 0 for item in one.items]  # there is no item 0
        scores = self._factors[:, liked].sum(1) @ self._factors[:, known]
        return [one.items[place] for place in np.argsort(-scores, kind="stable")[:TOP]]

    def _fit(self) -> None:
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import TruncatedSVD

        self._new = 0
        users = [items for items in self._liked.values() if items]
        rows = np.repeat(np.arange(len(users)), [len(items) for items in users])
        columns = np.concatenate([[*items] for items in users])
        matrix = csr_matrix((np.ones(len(rows)), (rows, columns)))
        self._factors = TruncatedSVD(min(RANK, *(side - 1 for side in matrix.shape)), random_state=0).fit(matrix).components_
