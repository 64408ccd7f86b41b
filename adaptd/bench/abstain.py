"""Abstention and calibration: what limits withhold, and whether they keep the rates that they state.

In-process, through the daemon's own learner on stored vectors. One pass gives every rate: limits are read off the same
window, whatever they are asked to keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd.bench import sets
from adaptd.bench.learning_cost import entry, learning, new_head
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools
from adaptd.bench.streams import Bools, blocks, percent
from adaptd.metrics import Calibration
from adaptd.model.abstain import Doubles, fit_limit
from adaptd.model.decoder import opine, tempered
from adaptd.model.network import Head
from adaptd.model.snapshot import HeadSnapshot

BLOCK, CHUNK = 25, 256  # events answered before their labels come; tests answered at once
RATES, SCOPE = (0.02, 0.05, 0.1), 0.05
EVENT_S = 0.02  # to say beforehand how long it takes


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was said of texts."""

    confidence: Doubles
    fit: Doubles
    right: Bools


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    data = run.load()
    return (len(data.split("train")) + len(data.split("test"))) * EVENT_S


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Give the stream to a learner, then ask its head for what is in scope and for what is not."""
    data = run.load()
    train, test, outside = data.split("train"), data.split("test"), sets.outsiders(run.set, sets.data_folder(run.data))
    with tools.task(f"{run.name}: encoding", len(train) + len(test) + len(outside)) as advance:
        vectors, inside, strange = (torch.from_numpy(tools.encoded.layers(texts, advance))
                                    for texts in (train.texts, test.texts, outside))
    order = np.random.RandomState(run.seed).permutation(len(train))[: QUICK_EVENTS if run.quick else None]
    head = new_head(vectors.shape[1])
    with tools.task(f"{run.name}: learning", len(order)) as advance:
        said = []
        for one in _stream(head, vectors[torch.from_numpy(order)], [train.labels[i] for i in order]):
            said.append(one)
            advance(len(one[0]))
    rows = _risks(*map(np.concatenate, zip(*said, strict=True)))
    return {"rows": [*rows, *_scopes(head, _answers(head.snapshot(), inside, test.labels),
                                     _answers(head.snapshot(), strange, [""] * len(outside)))]}


def _stream(head: Head, vectors: Tensor, labels: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Answer each block, then learn it; yield confidence, right, and each rate's limit at the time, per event."""
    with learning(head, vectors, -1) as learner:
        for block in blocks(np.arange(len(labels)), BLOCK):
            truth = [labels[i] for i in block]
            if head.labels:
                said = _answers(head.snapshot(), vectors[torch.from_numpy(block)], truth)
                limits = [head.fold.recent.limits(rate, 0.0).confidence for rate in RATES]
                yield said.confidence, said.right, *(np.full(len(block), limit) for limit in limits)
            learner.deliver([entry(int(i), label) for i, label in zip(block, truth, strict=True)])
            learner.call(lambda: None).result()  # the ridge solved over all of it


def _answers(head: HeadSnapshot, vectors: Tensor, labels: Sequence[str]) -> Answers:
    said = [opine(chunk, head) for chunk in torch.split(vectors, CHUNK)]
    chances = tempered(np.concatenate([one.pooled for one in said]), head)
    right = np.array([head.labels[best] for best in chances.argmax(1)]) == np.array(labels)
    fit = np.concatenate([one.fit for one in said])
    return Answers(confidence=chances.max(1).astype(np.float64), fit=fit.astype(np.float64), right=right)


def _risks(confidence: Doubles, right: Bools, *limits: Doubles) -> list[dict[str, Any]]:
    """Return what was withheld of the stream at each rate, and how much of the rest was wrong."""
    calibration = Calibration()
    for c, r in zip(confidence.tolist(), right.tolist(), strict=True):
        calibration.add(c, bool(r))
    rows = [_row("answers all", wrong=percent(~right), ece=100 * (calibration.figures() or {})["ece"])]
    for rate, limit in zip(RATES, limits, strict=True):
        given = confidence >= limit
        rows.append(_row("abstain_error", rate=rate, withheld=percent(~given), wrong=percent(~right[given])))
    return rows


def _scopes(head: Head, inside: Answers, outside: Answers) -> list[dict[str, Any]]:
    """Return what is withheld in scope and out of scope at one rate, by fit and by confidence."""
    said, _, known, fits = head.fold.recent.tensor().numpy().T
    rows = []
    for name, recent, mine, others in (("out_of_scope", fits, inside.fit, outside.fit),
                                       ("max softmax", said, inside.confidence, outside.confidence)):
        limit = fit_limit(recent[known > 0], SCOPE)
        answered = mine >= limit
        rows.append(_row(name, rate=SCOPE, withheld=percent(~answered), wrong=percent(~inside.right[answered]),
                         outside=percent(others < limit), auroc=100 * _auroc(mine, others)))
    return rows


def _row(method: str, *, rate: float | None = None, withheld: float = 0.0, wrong: float, outside: float | None = None,
         auroc: float | None = None, ece: float | None = None) -> dict[str, Any]:
    stated = None if rate is None else 100 * rate
    return {"method": f"{method} {stated:g} %" if stated else method, "in scope withheld": withheld, "wrong of answered": wrong,
            "out of scope withheld": outside, "AUROC": auroc, "ECE": ece}


def _auroc(inside: Doubles, outside: Doubles) -> float:
    """Return how often something in scope scores above something out of scope, ties counted half."""
    ranked = np.sort(outside)
    below, upto = np.searchsorted(ranked, inside, side="left"), np.searchsorted(ranked, inside, side="right")
    return float((below + upto).mean() / (2 * len(outside)))
