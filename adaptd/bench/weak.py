"""Weak labels: few true ones, and for the rest what the daemon proposes itself, or others' labels of which a share is wrong.

In-process, through the daemon's own learner, proposals, trial and gate. The first so many labels of each class in the stream are
true, and the holdout grows with them; what comes behind them, 3,000 events at most, has no label. Wrong labels are wrong at
random. Each trial is the first against its champion, and what was tried is taken out again before the next one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import training
from adaptd.bench.learning_cost import entry, learning, new_head
from adaptd.bench.plan import Run, Tools
from adaptd.bench.review import Given, accuracy, read
from adaptd.bench.streams import Ints, blocks, percent
from adaptd.config import Weak
from adaptd.evaluate import held_out, paired
from adaptd.gate import NotWorse
from adaptd.learn import Learner
from adaptd.model import proposing
from adaptd.model.network import Head
from adaptd.records import Learned
from adaptd.rows import FOREVER, HoldoutRule
from adaptd.weighing import weigh

TRUE = 5, 10, 20  # labels of each class
WRONG = 0.2, 0.6  # shares of wrong ones among others' labels
HOLDOUT = HoldoutRule(share=0.3, after=2)  # with few labels more must judge than by default
POOL, BLOCK = 3000, 25
EVENT_S, TRIAL_S = 0.02, 20.0  # to say beforehand how long it takes


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    labels = run.load().split("train").labels
    return sum((each * len(set(labels)) + 3 * POOL) * EVENT_S + 3 * TRIAL_S for each in _sizes(run))


def _sizes(run: Run) -> Sequence[int]:
    return TRUE[1:2] if run.quick else TRUE


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Try what is proposed, and weak labels with a share of wrong ones, beside few true ones."""
    given = read(run, tools)
    sizes, rows = _sizes(run), list[dict[str, Any]]()
    with tools.task(f"{run.name}: trials", len(sizes)) as advance:
        for each in sizes:
            rows += tried(given, each, run.seed)
            advance(1)
    return {"rows": rows}


def tried(given: Given, each: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what a trial of each kind of labels says beside `each` true ones of each class, and the accuracy with them."""
    true, rest = split(given.labels, each)
    vectors = given.vectors[torch.from_numpy(np.concatenate([true, rest]))]  # in the order in which they are learned
    head = new_head(vectors.shape[1])
    with learning(head, torch.cat([vectors] * (2 + len(WRONG))), -1) as learner:
        _teach(learner, held([given.labels[i] for i in true]))
        without, told = accuracy(head, given), [given.labels[i] for i in rest]
        ways = {"pseudo": proposed(head, vectors[len(true):]),
                **{f"{share:.0%} wrong": dict(enumerate(wrong(told, share, seed))) for share in WRONG}}
        for number, (name, labels) in enumerate(ways.items(), 1):
            verdict = judged(head, {len(true) + place: label for place, label in labels.items()}, vectors)
            first = number * len(vectors) + len(true)  # a row of its own for each way: none is born twice
            weak = [_entry(first + place, label, source="weak:bench") for place, label in labels.items()]
            _teach(learner, weak)
            with_them = accuracy(head, given)
            _teach(learner, [Learned(seq=first + len(vectors) - 1, domain=1, died=[row.id for one in weak for row in one.born])])
            admitted = verdict["decision"] == "promote"
            yield {"method": f"{name}, {each} true of each", "labels": len(labels), "right": _right(labels, told),
                   "held out": verdict["n"], "admitted": float(admitted), "without": without, "with": with_them,
                   "kept": with_them if admitted else without}


def split(labels: Sequence[str], each: int) -> tuple[Ints, Ints]:
    """Return the places of the first so many of each class, and the first of the others."""
    seen: Counter[str] = Counter()
    true = np.zeros(len(labels), np.bool_)
    for place, label in enumerate(labels):
        true[place], seen[label] = seen[label] < each, seen[label] + 1
    return np.flatnonzero(true), np.flatnonzero(~true)[:POOL]


def held(labels: Sequence[str]) -> list[Learned]:
    """Return the entries of labels in order; some are held out, by a hash of their place."""
    seen: Counter[str] = Counter()
    made = []
    for place, label in enumerate(labels):
        made.append(_entry(place, label, holdout=HOLDOUT.chooses(_content(place), seen[label])))
        seen[label] += 1
    return made


def _entry(place: int, label: str, **row: Any) -> Learned:
    one = entry(place, label)
    return replace(one, born=[replace(born, content=_content(place), **row) for born in one.born])


def _content(place: int) -> bytes:
    """Return what stands for an HMAC: who is held out, and who chooses the ridge's penalty, hangs on it."""
    return hashlib.blake2b(place.to_bytes(8, "big"), digest_size=16).digest()


def wrong(labels: Sequence[str], share: float, seed: int) -> list[str]:
    """Return labels of which a share is another one, at random."""
    random, known = np.random.RandomState(seed), sorted(set(labels))
    return [known[(known.index(label) + 1 + random.randint(len(known) - 1)) % len(known)] if random.rand() < share else label
            for label in labels]


def proposed(head: Head, vectors: Tensor) -> dict[int, str]:
    """Return what the daemon would label events with, by their place."""
    rows = [(int(row), head.labels[target]) for row, target in zip(head.memory.ids, head.memory.targets, strict=True)]
    out = {int(row) for row in head.memory.ids[: head.memory.size][head.memory.holdout[: head.memory.size]]}
    alone = head.without(out, [one for one in rows[: head.memory.size] if one[0] not in out]).snapshot()
    said = proposing.guess(vectors, alone)
    limit = head.fold.recent.limits(Weak().pseudo_error, 0.0).confidence
    return {place: said.targets[place] for place in proposing.choose(said.targets, said.sure, limit)}


def judged(head: Head, labels: Mapping[int, str], vectors: Tensor) -> dict[str, Any]:
    """Return the verdict of a trial of labels, by the place of their vectors, and how many held-out rows judged."""
    tensors, facts, adapter, _ = training.judged(head, FOREVER)
    gate, n = NotWorse(margin=0.0), len(held_out(tensors))
    if n < gate.min_rows or not labels:
        return {"decision": "undecided", "n": n}
    weak = {"vectors": vectors[list(labels)], "targets": torch.tensor([head.class_of(label) for label in labels.values()])}
    verdict = gate.judge(paired(weigh(tensors, weak, facts, adapter), tensors, facts["labels"], ()))
    return {"decision": verdict.decision, "n": n}


def _teach(learner: Learner, entries: Sequence[Learned]) -> None:
    for block in blocks(np.arange(len(entries)), BLOCK):
        learner.deliver([entries[i] for i in block])
    learner.call(lambda: None).result()  # the ridge solved over all of it


def _right(labels: Mapping[int, str], told: Sequence[str]) -> float | None:
    return percent(np.array([told[place] == label for place, label in labels.items()])) if labels else None
