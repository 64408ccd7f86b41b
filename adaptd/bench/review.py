"""Review: what a fifth of the labels gives when `review` chooses them, beside a random fifth and all of them.

In-process, through the daemon's own learner on stored vectors and its own choice (`adaptd.model.asking`). The training split
waits in random order without a label; the newest 5,000 of what waits are the pool, as in the daemon. Rounds are larger than
the command line's ten, so that a run ends: a person's answers would be used sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd.bench.learning_cost import entry, learning, new_head
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools
from adaptd.bench.streams import Ints, blocks, percent
from adaptd.model import asking
from adaptd.model.network import Head

SHARE, ROUNDS, TESTED = 0.2, 30, 5  # of the labels; in rounds, of which every fifth is followed by the tests
EVENT_S, ROUND_S = 0.02, 4.0  # to say beforehand how long it takes
BLOCK = 25  # labels that come together

Choose = Callable[[Head, Ints, int], Ints]  # (head, what waits, newest last; how many) -> what to ask


@dataclass(frozen=True, kw_only=True)
class Given:
    """A set's training and test rows, in the order of the stream."""

    vectors: Tensor
    labels: Sequence[str]
    tests: Tensor
    answers: Sequence[str]


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    data = run.load()
    return (len(data.split("train")) * (1 + 2 * SHARE) + len(data.split("test"))) * EVENT_S + ROUNDS * ROUND_S


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Ask for labels in both ways, then give all of them."""
    given = read(run, tools)
    budget = int(SHARE * len(given.labels))
    random = np.random.RandomState(run.seed + 1)
    ways: dict[str, tuple[Choose, int, int]] = {
        "review": (chooser(given.vectors), budget, ROUNDS),
        "random": (lambda head, waiting, count: random.permutation(waiting)[:count], budget, ROUNDS),
        "all labels": (lambda head, waiting, count: waiting[:count], len(given.labels), 1)}
    curves: dict[str, list[tuple[int, float]]] = {}
    with tools.task(f"{run.name}: learning", sum(labels for _, labels, _ in ways.values())) as advance:
        for name, (choose, labels, rounds) in ways.items():
            curves[name] = learned(given, choose, labels, rounds, advance)
    whole = curves["all labels"][-1][1]
    rows = [{"method": name if labels == len(given.labels) else f"{name} {SHARE:.0%}", "labels": labels,
             "accuracy": curves[name][-1][1], "share of all": 100 * curves[name][-1][1] / whole}
            for name, (_, labels, _) in ways.items()]
    return {"rows": rows, "curves": curves, "axis": "labels"}


def read(run: Run, tools: Tools) -> Given:
    """Read a set, its training split in the order of the seed."""
    data = run.load()
    train, test = data.split("train"), data.split("test")
    with tools.task(f"{run.name}: encoding", len(train) + len(test)) as advance:
        vectors, tests = (torch.from_numpy(tools.encoded.layers(rows.texts, advance)) for rows in (train, test))
    order = np.random.RandomState(run.seed).permutation(len(train))[: QUICK_EVENTS if run.quick else None]
    return Given(vectors=vectors[torch.from_numpy(order)], labels=[train.labels[i] for i in order],
                 tests=tests, answers=test.labels)


def chooser(vectors: Tensor) -> Choose:
    """Return what asks as the daemon does."""

    def choose(head: Head, waiting: Ints, count: int) -> Ints:
        pool = waiting[-asking.POOL:]
        asked = vectors[torch.from_numpy(pool)]
        wrong = np.ones(len(pool), np.float32)
        if head.labels:
            said = asking.guess(asked, head.snapshot())
            wrong = asking.doubts(said.confidence, said.fit, head.fold.recent.tensor().numpy()).wrong
        return pool[[one.place for one in asking.choose(asked, wrong, count)]]

    return choose


def learned(given: Given, choose: Choose, budget: int, rounds: int, advance: Callable[[int], None]) -> list[tuple[int, float]]:
    """Ask for labels and learn them in rounds; return the accuracy on the tests after each, by number of labels."""
    head, waiting, curve = new_head(given.vectors.shape[1]), np.arange(len(given.labels)), []
    ordered, done = torch.empty_like(given.vectors), 0  # the journal has them in the order in which they were labelled
    with learning(head, ordered, -1) as learner:
        for round_ in range(rounds):
            asked = choose(head, waiting, -(-(budget - done) // (rounds - round_)))
            ordered[done : done + len(asked)] = given.vectors[torch.from_numpy(asked)]
            for block in blocks(asked, BLOCK):
                learner.deliver([entry(done + place, given.labels[i]) for place, i in enumerate(block)])
                learner.call(lambda: None).result()  # the ridge solved over all of it: what comes next is asked of this
                done += len(block)
                advance(len(block))
            waiting = np.setdiff1d(waiting, asked)
            if (round_ + 1) % TESTED == 0 or round_ + 1 == rounds:
                curve.append((done, accuracy(head, given)))
    return curve


def accuracy(head: Head, given: Given) -> float:
    """Return how many tests are answered rightly, in percent."""
    snapshot = head.snapshot()
    decisions = asking.guess(given.tests, snapshot).decisions
    return percent(np.array([one.target == label for one, label in zip(decisions, given.answers, strict=True)]))
