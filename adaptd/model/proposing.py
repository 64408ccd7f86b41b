"""Proposing: which unlabelled examples a head is sure enough of to label them itself. Pseudo-labels (Lee, 2013).

How sure it is of one is the calibrated confidence times the share of what was heard that comes from experts whose own best
answer is the same: dissent lowers it. A limit lets through what is sure (`adaptd.model.abstain`: from it on at most a stated
share of answers is wrong). Of each class as many at most as the median class has, the surest first, so that large classes do
not drown others (class-balanced self-training; Zou et al., 2018). Pure numbers; no journal, no daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from adaptd.model.abstain import NONE
from adaptd.model.attention import Floats
from adaptd.model.decoder import opine, tempered
from adaptd.model.snapshot import HeadSnapshot

CHUNK = 64  # examples answered at once


@dataclass(frozen=True, kw_only=True)
class Guessed:
    """What a head would label examples with."""

    targets: Sequence[str]  # [n]
    sure: Floats  # [n] 0 to 1


Run = Callable[[Callable[[], Guessed]], Guessed]


def _at_once(work: Callable[[], Guessed]) -> Guessed:
    return work()


def guess(vectors: Tensor, head: HeadSnapshot, run: Run = _at_once) -> Guessed:
    """Ask a head that knows a label about vectors [n, dim], a few at a time; `run` says where: an index may be shared."""
    parts = [run(partial(_guess, chunk, head)) for chunk in torch.split(vectors, CHUNK)]
    return Guessed(targets=[target for part in parts for target in part.targets],
                   sure=np.concatenate([np.zeros(0, np.float32), *(part.sure for part in parts)]))


def _guess(vectors: Tensor, head: HeadSnapshot) -> Guessed:
    said = opine(vectors, head)
    decisions = head.reading.decisions(tempered(said.pooled, head), int(head.known.sum()))
    best = np.array([head.classes[one.target] for one in decisions])
    agree = (said.shares * (said.experts.argmax(2) == best)).sum(0)
    return Guessed(targets=[one.target for one in decisions],
                   sure=np.array([one.confidence for one in decisions], np.float32) * agree.astype(np.float32))


def choose(labels: Sequence[str], sure: Floats, limit: float) -> list[int]:
    """Return the places of the examples to label, in order: those at least `limit` sure, balanced over the labels.

    >>> choose(["a", "a", "a", "b", "c"], np.array([0.9, 0.99, 0.95, 0.96, 0.2], np.float32), 0.9)
    [1, 2, 3]
    """
    if limit == NONE:
        return []
    by: dict[str, list[int]] = {}
    for place in np.argsort(-sure, kind="stable").tolist():
        if sure[place] >= limit:
            by.setdefault(labels[place], []).append(place)
    most = int(np.ceil(np.median([len(places) for places in by.values()]))) if by else 0
    return sorted(place for places in by.values() for place in places[:most])
