"""Asking: which unlabelled examples a person is asked about first, so that the labels prevent most errors.

Each example i of a pool weighs ``w_i``, the chance that its answer is wrong: one minus the calibrated confidence, which
counts the less the worse the example fits what is known (novelty). A label of j would put i right with the chance ``k_ij``
that both are of one class, which their similarity tells. The errors that labels of a set S are expected to prevent,

    ``f(S) = sum_i w_i max_{j in S} k_ij``,

are a facility location: monotone and submodular, so the greedy choice is at least 1 - 1/e of the best (Nemhauser et al.,
1978; for active learning: Wei, Iyer and Bilmes, 2015), and the lazy one is the same, sooner (Minoux, 1978). It asks about what
is uncertain, in dense places first, once in each: a duplicate of what was chosen adds nothing. Where nothing is known every
answer is wrong, and what is typical is asked first (TypiClust; Hacohen et al., 2022). Pure numbers; no journal, no daemon.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaptd.model.abstain import OTHER, Doubles
from adaptd.model.attention import Floats
from adaptd.model.decoder import opine, tempered
from adaptd.model.reading import Decision
from adaptd.model.snapshot import HeadSnapshot
from adaptd.model.threads import one_thread

POOL = 5000  # examples among which is chosen: the newest
# The chance that two texts are of one class, by the cosine of their centred vectors: a logistic curve. Read off CLINC150's
# training split under all-MiniLM-L6-v2, where it is 13 % at 0.35, 40 % at 0.45, 72 % at 0.55 and 89 % at 0.65.
STEEP, EVEN = 14.0, 0.48
FAR = 0.1  # a cosine up to which there is none
SHRUNK = 20  # a pool of so many is centred half-way: the mean of few says nothing about what all have in common
RARE = 0.05  # an example is novel where it fits less than all but this share of what was labelled lately
FEW = 20  # labelled examples from which on that can be told
LIKE = 0.5  # from which chance on one example is called like another
ROWS, CHUNK = 512, 64  # of the similarities at once; examples answered at once


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One example to ask about."""

    place: int
    expected: float  # errors in the pool that its label is expected to prevent, beside the labels of those before it
    like: int  # others in the pool that are like it


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """What one head says of a pool."""

    wrong: Floats  # [n] the chance that the answer is wrong
    novelty: Floats  # [n] 0 to 1


def together(cosine: Tensor) -> Tensor:
    """Return the chance that two examples are of one class.

    >>> [f"{chance:.2f}" for chance in together(torch.tensor([0.0, 0.35, 0.48, 0.65, 1.0]))]
    ['0.00', '0.13', '0.50', '0.91', '0.99']
    """
    least = torch.sigmoid(torch.tensor(STEEP * (FAR - EVEN)))
    return (torch.sigmoid(STEEP * (cosine - EVEN)) - least).clamp_(min=0.0)


def alike(vectors: Tensor) -> Floats:
    """Return ``k`` [n, n] of vectors [n, dim], in blocks of rows; n is at most `POOL`, so it takes 100 MB at most."""
    made = np.empty((len(vectors), len(vectors)), np.float32)
    with one_thread():  # answers go on meanwhile
        centre = vectors.float().sum(0) / (len(vectors) + SHRUNK)
        units = normalize(vectors.float() - centre, dim=1)
        for start in range(0, len(units), ROWS):
            made[start : start + ROWS] = together(units[start : start + ROWS] @ units.T).numpy()
    return made


def choose(vectors: Tensor, wrong: Floats, count: int) -> list[Choice]:
    """Choose at most `count` of a pool's vectors [n, dim], the most useful first; what would add nothing is left out."""
    if not len(vectors):
        return []
    kernel = alike(vectors)
    like = (kernel >= LIKE).sum(1) - 1
    return [Choice(place=place, expected=gain, like=max(0, int(like[place]))) for place, gain in _greedy(kernel, wrong, count)]


def _greedy(kernel: Floats, wrong: Floats, count: int) -> Iterator[tuple[int, float]]:
    """Yield places with what each adds; a gain that was made earlier is an upper bound of what it is now."""
    covered = np.zeros(len(wrong), np.float32)
    heap = [(-float(gain), place, 0) for place, gain in enumerate(kernel @ wrong)]
    heapq.heapify(heap)
    chosen = 0
    while heap and chosen < count:
        _, place, made = heapq.heappop(heap)
        gain = float(wrong @ np.maximum(kernel[place] - covered, 0.0))
        if made < chosen and heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, place, chosen))
            continue
        if gain <= 1e-6:
            return
        yield place, gain
        covered = np.maximum(covered, kernel[place])
        chosen += 1


def doubts(confidence: Floats, fit: Floats, recent: Doubles) -> Doubts:
    """Return how likely answers [n] are wrong; `recent` [m, 4]: what was said lately of labelled events (`Recent`).

    An example's p-value is the share of labelled ones of known classes that fit no better (conformal; Vovk et al., 2005);
    novel is what has one below 5 %: of such, confidence was never shown to hold. Nor was any while outcomes are few: it
    counts as if four more had been seen, two of them right (Agresti and Coull, 1998). A head that knows a single label is
    certain of everything.
    """
    shown = np.float32((len(recent) + 2) / (len(recent) + 4))
    fits = np.sort(recent[(recent[:, 2] > 0) & (recent[:, 3] < OTHER), 3])
    if len(fits) < FEW:
        return Doubts(wrong=1 - shown * confidence, novelty=np.zeros_like(confidence))
    p = (1 + np.searchsorted(fits, fit, side="right")) / (1 + len(fits))
    novelty = np.maximum(0.0, 1 - p / RARE).astype(np.float32)
    return Doubts(wrong=1 - shown * confidence * (1 - novelty), novelty=novelty)


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What a head answers a pool with, before any limit withholds it."""

    decisions: Sequence[Decision]  # [n]
    fit: Floats  # [n]

    @property
    def confidence(self) -> Floats:
        """How sure each is [n]."""
        return np.array([decision.confidence for decision in self.decisions], np.float32)


Run = Callable[[Callable[[], Guesses]], Guesses]


def _at_once(work: Callable[[], Guesses]) -> Guesses:
    return work()


def guess(vectors: Tensor, head: HeadSnapshot, run: Run = _at_once) -> Guesses:
    """Ask a head that knows a label about vectors [n, dim], a few at a time; `run` says where: an index may be shared."""
    parts = [run(partial(_guess, chunk, head)) for chunk in torch.split(vectors, CHUNK)]
    return Guesses(decisions=[decision for part in parts for decision in part.decisions],
                   fit=np.concatenate([part.fit for part in parts]))


def _guess(vectors: Tensor, head: HeadSnapshot) -> Guesses:
    said = opine(vectors, head)
    return Guesses(decisions=head.reading.decisions(tempered(said.pooled, head), int(head.known.sum())), fit=said.fit)
