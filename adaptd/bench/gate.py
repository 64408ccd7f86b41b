"""The gate where the truth is known: the daemon's own gate class, given simulated answers, and how often it errs.

A world has classes of unlike size and difficulty. A row is hard or easy for candidate and champion alike: each is right
where a latent normal, correlated between the two, lies below its threshold for the row's class. So the true difference
is known, errors are correlated, and who wins a row hangs on its class. Three parts, the `set` of a run: `power` (one
candidate, by accuracy, holdout and true difference), `lost-class` (better over all, and one class lost), `month` (a
candidate each hour or day against a champion, on a holdout that grows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from adaptd.bench.plan import Run, Tools
from adaptd.gate import NotWorse
from adaptd.records import Paired

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ROWS = (100, 200, 300, 500, 1000, 2000, 3000)
POINTS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)
ACCURACIES = (0.70, 0.80, 0.90, 0.97)
CLASSES = 30
AGREEMENT = 0.97  # correlation of the latent normals
SPREAD = 0.5  # of the classes' accuracies, on the probit scale
CERTAIN = 1 - 1e-6
TRIALS, MONTHS, QUICK = 1000, 200, 40
JUDGE_S = 0.0012  # a verdict on some 1,000 rows: to say beforehand how long a run takes
SURE = 0.95  # of the rates' intervals (Clopper and Pearson, 1934)


@dataclass(frozen=True)
class World:
    """Classes of sizes 1 : 1/2 : 1/3 … and of unlike difficulty, with a champion of this accuracy."""

    accuracy: float

    @property
    def names(self) -> list[str]:
        """The classes' names, the largest first."""
        return [f"class {c}" for c in range(CLASSES)]

    @cached_property
    def shares(self) -> Floats:
        """What share of the rows each class has."""
        sizes = 1.0 / np.arange(1, CLASSES + 1)
        shares: Floats = sizes / sizes.sum()
        return shares

    @cached_property
    def champion(self) -> Floats:
        """The champion's accuracy per class, `accuracy` over all."""
        easy = SPREAD * np.random.default_rng(0).standard_normal(CLASSES)
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.shares @ stats.norm.cdf(easy + middle) < self.accuracy else (low, middle)
        found: Floats = stats.norm.cdf(easy + low)
        return found

    def candidate(self, difference: float) -> Floats:
        """Accuracy per class of one that is better by `difference` over all; each class gains or loses as it can."""
        can = 1 - self.champion if difference > 0 else self.champion
        found: Floats = np.clip(self.champion + difference * can / (self.shares @ can), 1 - CERTAIN, CERTAIN)
        return found

    def cells(self, candidate: Floats) -> Floats:
        """Return per class the chance that both are right, the candidate alone, the champion alone, neither [C, 4]."""
        champion = self.champion
        both = np.array([_both(float(p), float(q)) for p, q in zip(candidate, champion, strict=True)])
        chances = np.stack([both, candidate - both, champion - both, 1 - candidate - champion + both], 1).clip(0, 1)
        found: Floats = chances / chances.sum(1, keepdims=True)
        return found


@cache
def _both(p: float, q: float) -> float:
    """Return the chance that both latent normals lie below their thresholds."""
    normal = stats.multivariate_normal([0, 0], [[1, AGREEMENT], [AGREEMENT, 1]])
    return float(min(normal.cdf(stats.norm.ppf([p, q])), p, q))


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    trials = _trials(run)
    judged = {"power": len(ACCURACIES) * len(ROWS) * len(POINTS) * trials, "lost-class": 2 * len(ROWS) * trials,
              "month": sum(4 * plan.tries * _months(run, plan) for plan in PLANS.values())}
    return JUDGE_S * judged[run.set]


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Let the gate judge what a world gives."""
    measures = {"power": _power, "lost-class": _lost_class, "month": _month}
    with tools.task(run.name, 1) as advance:
        measured = measures[run.set](run)
        advance(1)
    return {**measured, "gate": {"margin": NotWorse.margin, "confidence": NotWorse.confidence, "min_class": NotWorse.min_class}}


def _trials(run: Run) -> int:
    return QUICK if run.quick else TRIALS


# -- one candidate --------------------------------------------------------------------------------------------


def _power(run: Run) -> dict[str, Any]:
    cells = []
    for accuracy in ACCURACIES:
        for rows in ROWS:
            for points in POINTS:
                world = World(accuracy)
                one = _rates(world, world.cells(world.candidate(points / 100)), rows, run)
                cells.append({"accuracy": round(100 * accuracy, 6), "held-out rows": rows, "points": points, **one})
    return {"rows": [_line(cells, accuracy, rows) for accuracy in ACCURACIES for rows in ROWS], "cells": cells}


def _line(cells: Sequence[Mapping[str, Any]], accuracy: float, rows: int) -> dict[str, Any]:
    """Return a line of the table: what share is promoted, by true difference, with its interval; what stays undecided."""
    mine = {c["points"]: c for c in cells if (c["accuracy"], c["held-out rows"]) == (round(100 * accuracy, 6), rows)}
    undecided = {f"undecided at {points:+g}": round(mine[points]["undecided"], 1) for points in (-1.0, 0.0, 1.0)}
    return {"accuracy": 100 * accuracy, "rows": rows, "answers that differ": round(mine[0.0]["differ"], 1),
            **{f"{points:+g}": interval(mine[points]["promote"], mine[points]["trials"]) for points in POINTS}, **undecided}


def _rates(world: World, cells: Floats, rows: int, run: Run, gate: NotWorse | None = None) -> dict[str, Any]:
    """Judge one kind of candidate many times; return percentages."""
    gate = gate or NotWorse()
    random = np.random.default_rng((run.seed, rows, round(1e6 * float(cells.sum(0)[0]))))
    decided = Counter(gate.judge(paired).decision for paired in _draws(world, cells, rows, _trials(run), random))
    shares = {name: 100 * decided[name] / _trials(run) for name in ("promote", "reject", "undecided")}
    return {**shares, "trials": _trials(run), "differ": 100 * float(world.shares @ cells[:, 1:3].sum(1))}


def _draws(world: World, cells: Floats, rows: int, trials: int, random: np.random.Generator) -> Iterator[Paired]:
    """Draw held-out rows with both answers: a class by its share, an outcome by its chance."""
    flat, names = (world.shares[:, None] * cells).ravel(), np.repeat(world.names, 4)
    for counts in random.multinomial(rows, flat / flat.sum(), trials):
        drawn = np.repeat(np.arange(len(flat)), counts)
        yield Paired(candidate=(drawn % 4 < 2).astype(int).tolist(), champion=(drawn % 2 == 0).astype(int).tolist(),
                     classes=names[drawn].tolist())


def interval(percent: float, trials: int) -> str:
    """Return a share with its exact interval.

    >>> interval(5.0, 1000)
    '5.0 (3.7-6.5)'
    """
    hits, tail = round(percent * trials / 100), (1 - SURE) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits else 0.0
    high = stats.beta.isf(tail, hits + 1, trials - hits) if hits < trials else 1.0
    return f"{percent:.1f} ({100 * low:.1f}-{100 * high:.1f})"


# -- a class that is lost -------------------------------------------------------------------------------------


def _lost_class(run: Run) -> dict[str, Any]:
    """The third largest class loses 20 points, or none does, at 1 point better over all; with and without tests of classes."""
    world, lost, rows = World(0.9), 2, []
    share = float(world.shares[lost])
    losing = world.candidate(0.01 + 0.20 * share)
    losing[lost] = world.champion[lost] - 0.20
    losing += (0.01 - float(world.shares @ (losing - world.champion))) * (np.arange(CLASSES) != lost) / (1 - share)
    for n in ROWS:
        for words, cells in (("one class lost", world.cells(losing.clip(0, CERTAIN))),
                             ("no class lost", world.cells(world.candidate(0.01)))):
            with_tests = _rates(world, cells, n, run)
            without = _rates(world, cells, n, run, replace(NotWorse(), min_class=n + 1))
            rows.append({"held-out rows": n, "of that class": round(n * share), "candidate": words,
                         "promoted": interval(with_tests["promote"], with_tests["trials"]),
                         "promoted without these tests": interval(without["promote"], without["trials"]),
                         "rejected": interval(with_tests["reject"], with_tests["trials"])})
    return {"rows": rows}


# -- a month --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often a candidate comes, and how the holdout grows."""

    tries: int
    start: int  # held-out rows at the first try
    growth: int  # held-out rows that come between two
    share: float  # of the months that are simulated: hourly ones cost the most


PLANS: Mapping[str, Plan] = {"hourly": Plan(tries=720, start=500, growth=5, share=0.5),
                             "daily": Plan(tries=30, start=300, growth=150, share=2.0)}


def _months(run: Run, plan: Plan) -> int:
    return max(2, int((4 if run.quick else MONTHS) * plan.share))


def _month(run: Run) -> dict[str, Any]:
    rows = []
    for name, plan in PLANS.items():
        for words, worse in (("each a margin worse", True), ("as training gives them", False)):
            for counted in (True, False):
                months = [_one_month(plan, worse, counted, np.random.default_rng((run.seed, m, plan.tries, worse)))
                          for m in range(_months(run, plan))]
                rows.append(_summary(name, words, counted, months))
    return {"rows": rows}


def _summary(name: str, words: str, counted: bool, months: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return a line: `months` holds the true difference of every candidate that was promoted, in points."""
    margin, n = 100 * NotWorse.margin, len(months)
    promoted = [points for month in months for points in month]
    erred = 100 * sum(any(points <= -margin for points in month) for month in months) / n
    worse, much = (100 * sum(points <= limit for points in promoted) / max(1, len(promoted)) for limit in (-1e-9, -margin))
    return {"comes": name, "candidates": words, "tries": "counted" if counted else "each by itself", "months": n,
            "months that erred, %": interval(erred, n), "promotions a month": round(len(promoted) / n, 2),
            "of them worse, %": round(worse, 1), "a margin worse, %": round(much, 2),
            "champion's change, points": round(sum(promoted) / n, 2)}


def _one_month(plan: Plan, worse: bool, counted: bool, random: np.random.Generator) -> list[float]:
    """Try candidates for a month; return the true difference, in points, of each that was promoted.

    What is promoted is the next champion, with its very answers to the held-out rows. Training gives candidates whose
    accuracy is the first champion's, give or take a point (standard deviation): the better the champion, the worse they are.
    """
    world, gate, most = World(0.9), NotWorse(), plan.start + plan.growth * plan.tries
    classes = random.choice(CLASSES, most, p=world.shares)
    names = np.array(world.names)[classes].tolist()
    latent, ahead, earlier, promoted = random.standard_normal(most), 0.0, list[int](), list[float]()
    right = _right(world, ahead, latent, classes)
    for k in range(plan.tries):
        n = plan.start + plan.growth * k
        difference = -gate.margin if worse else 0.01 * random.standard_normal() - ahead
        other = AGREEMENT * latent + (1 - AGREEMENT**2) ** 0.5 * random.standard_normal(most)
        answers = _right(world, ahead + difference, other, classes)
        scores = Paired(candidate=answers[:n].tolist(), champion=right[:n].tolist(), classes=names[:n],
                        earlier=earlier if counted else ())
        earlier.append(n)
        if gate.judge(scores).decision == "promote":
            promoted.append(100 * difference)
            ahead, latent, right, earlier = (ahead + difference, other, answers, []) if not worse else \
                (ahead, latent, right, [])
    return promoted


def _right(world: World, ahead: float, latent: Floats, classes: Ints) -> Ints:
    """Return which rows are answered rightly by one that is `ahead` of the world's first champion."""
    right: Ints = (latent < stats.norm.ppf(world.candidate(ahead))[classes]).astype(np.int64)
    return right
