"""What a bounded memory costs: accuracy by policy and capacity, with the same sums behind each.

In-process, one head for each policy and capacity; all learn the same rows, and answer with the ridge of one head that
learned them all, as what is evicted stays in the sums. Sets by class: the class-incremental stream, the test split asked
at its end, with trust where it begins. Sets in time: each block of events is answered, then learned. `attention` is the
attention over memory alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd.bench.class_incremental import prepare
from adaptd.bench.learning_cost import new_head
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools
from adaptd.bench.streams import over_time, percent
from adaptd.model.decoder import EXPERTS, opine
from adaptd.model.memory import NewRows
from adaptd.model.network import Head
from adaptd.model.snapshot import HeadSnapshot
from adaptd.policies import register_memory_policies
from adaptd.retained import Bound

SHARES = (0.5, 0.2, 0.1)
BLOCK = 100  # events that are answered before their labels come
ENCODE_S, LEARN_S = 0.010, 0.05  # a text; to say beforehand how long a run takes
ALL = "all"


@dataclass
class Contender:
    """A head of one policy and capacity, and whether its answers were right."""

    name: str
    share: float
    head: Head
    right: dict[str, list[bool]] = field(default_factory=lambda: {"pooled": [], "attention": []})

    def answer(self, vectors: Tensor, labels: Sequence[str], solved: HeadSnapshot, *, fold: bool) -> None:
        """Answer rows with the ridge of `solved`; with `fold` learn from the outcomes whom to trust."""
        self.head.index()
        snapshot = replace(self.head.snapshot(), ridge=solved.ridge, solved=solved.solved)
        if not snapshot.known.any():
            return
        said = opine(vectors, snapshot)
        truth = [snapshot.index_of(label) for label in labels]
        for name, scores in (("pooled", said.pooled), ("attention", said.experts[EXPERTS.index("attention")])):
            self.right[name] += [known is not None and best == known for best, known in zip(scores.argmax(1), truth, strict=True)]
        for place, known in enumerate(truth if fold else ()):
            self.head.fold.update(said, place, known, snapshot)

    def row(self, timed: bool) -> dict[str, Any]:
        """Return its row of the table."""
        found: dict[str, Any] = {"method": f"{self.name} {self.share:.0%}", **self.head.bounded.facts()}
        for name, right in self.right.items():
            flags = np.array(right)
            figures = over_time(flags) if timed else {"final": percent(flags)}
            found |= {f"{name} {what}": figures[what] for what in ("cumulative", "quarter 4", "final") if what in figures}
        return {key: value for key, value in found.items() if key not in ("capacity", "per_class", "policy")}


def stream(run: Run) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the texts and labels to learn, in order, and those to ask at the end (none for a set in time)."""
    data = run.load()
    if data.timed:
        rows = data.in_time().head(QUICK_EVENTS) if run.quick else data.in_time()
        return rows.texts, rows.labels, [], []
    train, test, order = prepare(run)
    learned, asked = np.concatenate(order.experiences), order.tests_until(len(order.experiences) - 1)
    return ([train.texts[i] for i in learned], [train.labels[i] for i in learned],
            [test.texts[i] for i in asked], [test.labels[i] for i in asked])


def contenders(dim: int, rows: int) -> list[Contender]:
    """Return a head that evicts nothing, then one for each policy and capacity."""
    found = [Contender(ALL, 1.0, new_head(dim))]
    for kind in register_memory_policies():
        for share in SHARES:
            bound = Bound(capacity=int(rows * share), per_class=0, policy=kind())
            found.append(Contender(kind.name, share, new_head(dim)))
            found[-1].head.bounded.rules = lambda _seq, bound=bound: bound  # type: ignore[misc]
    return found


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    texts, _, asked, _ = stream(run)
    return (len(texts) + len(asked)) * ENCODE_S + len(texts) * LEARN_S


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Give the stream to every head."""
    texts, labels, asked, answers = stream(run)
    with tools.task(f"{run.name}: encoding", len(texts) + len(asked)) as advance:
        vectors, tests = (torch.from_numpy(tools.encoded.layers(some, advance)) if some else None for some in (texts, asked))
    assert vectors is not None
    heads = contenders(vectors.shape[1], len(texts))
    with tools.task(f"{run.name}: learning", len(texts)) as advance:
        for new in _blocks(texts, vectors, run.seed):
            block = slice(new.ids[0], new.ids[-1] + 1)
            solved = heads[0].head.snapshot()
            for one in heads:
                if tests is None:
                    one.answer(vectors[block], labels[block], solved, fold=True)
                one.head.learn(replace(new, targets=[one.head.class_of(label) for label in labels[block]]))
            if tests is None or block.stop == len(texts):
                heads[0].head.solve()
            advance(len(new.ids))
    if tests is not None:
        solved = heads[0].head.snapshot()
        for one in heads:
            for start in range(0, len(tests), BLOCK):
                one.answer(tests[start:start + BLOCK], answers[start:start + BLOCK], solved, fold=False)
    return {"rows": [one.row(timed=tests is None) for one in heads]}


def _blocks(texts: Sequence[str], vectors: Tensor, seed: int) -> Iterator[NewRows]:
    for start in range(0, len(texts), BLOCK):
        ids = range(start, min(start + BLOCK, len(texts)))
        contents = [hashlib.blake2b(texts[i].encode(), key=bytes([seed]), digest_size=16).digest() for i in ids]
        yield NewRows(ids=ids, events=ids, born=ids, targets=[], sources=["bench"] * len(ids), contents=contents,
                      holdout=[False] * len(ids), vectors=vectors[ids.start:ids.stop])
