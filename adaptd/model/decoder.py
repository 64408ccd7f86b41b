"""Decoder: ``y = Decoder(theta)``: several experts, pooled by learned trust, calibrated by one temperature.

Experts: ridge over everything, attention over memory, and attention that prefers the newest of its neighbours.
Their probabilities are pooled log-linearly (Genest and Zidek, 1986), ``log p = 2 sum_e a_e log(p_e + 0.01)``; the
exponents a_e are learned per expert and class by fixed share (Herbster and Warmuth, 1998). Classes with at most
20 rows are decided by the nearest mean, as far as that rule has earned it. One temperature, learned online
(AdaGrad; Duchi et al., 2011), makes the result a probability (Guo et al., 2017).

A class that has not been seen lately is unobserved, not stale: the expert that prefers the newest may speak about
a class only as far as that class still comes (`gates`), and outcomes of a class that comes in a burst count less
(`Fold`). So a class-incremental stream does not teach distrust in what is old, and a changed label is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from adaptd.model.attention import Bools, Floats, Ints, attend, log_softmax, newest_first, softmax, weigh
from adaptd.records import Voice

if TYPE_CHECKING:
    from adaptd.model.network import HeadSnapshot

EXPERTS = ("ridge", "attention", "attention-newest")
NEAREST_MEAN = "nearest-mean"  # decides beside them where there are young classes
RIDGE_SCALE = 10.0  # turns ridge scores (targets 0 and 1) into log-odds
FLOOR = 0.01  # added to every probability before its logarithm: bounds what one expert can veto
POOL = 2.0
YOUNG, VETO = 20, 0.3  # a class with at most so many rows is young; the pool's share in what is said about it
MEAN_SCALE = 30.0
BURST = 1.5  # power of a class's rate in gates and evidence
TOP = 5  # scores that an answer names
NEAREST = 5  # neighbours whose similarity says how well an example fits


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One remembered row that weighed in an answer."""

    slot: int
    row: int
    event: int
    label: str
    taught: str  # what its event was called first
    weight: float
    similarity: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One example's answer by one head."""

    label: str | None
    confidence: float
    scores: dict[str, float]
    reason: str | None = None
    neighbours: Sequence[Neighbour] = ()
    voices: Sequence[Voice] = ()


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What every expert says of n examples, and what they say together."""

    experts: Floats  # [E, n, C] probabilities
    gates: Floats  # [E, n] 0 to 1: how far each may speak
    shares: Floats  # [E, n] how far each was heard
    plain: Floats  # [n, C] pooled log-probabilities
    ruled: Floats  # [n, C] the same under the rule for young classes
    pooled: Floats  # [n, C] what is answered, before the temperature
    similarity: Floats  # [n, k]
    slots: Ints  # [n, k], -1 = none
    weight: Floats  # [n, k] attention
    fit: Floats  # [n] how well each fits what is known


def opine(vectors: Tensor, head: HeadSnapshot) -> Opinions:
    """Ask every expert about vectors [n, dim]."""
    similarity, slots = head.retrieve(vectors)
    ridge = head.features(vectors) @ head.ridge
    return pool_opinions(head, ridge.numpy(), head.centres.scores(vectors, head.adapter).numpy(), similarity, slots)


def pool_opinions(head: HeadSnapshot, ridge: Floats, cosines: Floats, similarity: Floats, slots: Ints) -> Opinions:
    """Pool what the experts found: ridge scores [n, C'], cosines to class means [n, C], neighbours [n, k] (-1 = none)."""
    classes, missing, slot = len(head.labels), slots < 0, np.maximum(slots, 0)
    neighbour = head.targets[slot]
    score = similarity * np.float32(head.adapter.scale) + head.log_value[neighbour]
    weight = weigh(score, missing)
    newest = weigh(score, missing, newest_first(np.where(missing, -1, head.order[slot])))
    experts = np.stack([ridge_opinion(ridge, head.known), attend(weight, neighbour, classes), attend(newest, neighbour, classes)])
    open_ = gates(experts, head.rates, ridge.shape[1] > 0)
    heard = shares(experts, open_, head.trust)
    plain = pool(experts, heard, head.known)
    ruled = pooled = plain
    if head.young is not None:
        ruled = young_rule(plain, cosines, head.young)
        pooled = np.logaddexp(ruled + np.float32(math.log(head.rule)), plain + np.float32(math.log(1 - head.rule)))
    return Opinions(experts=experts, gates=open_, shares=heard, plain=plain, ruled=ruled, pooled=pooled, similarity=similarity,
                    slots=slots, weight=weight, fit=fit(ridge, similarity, missing))


def fit(ridge: Floats, similarity: Floats, missing: Bools) -> Floats:
    """Return how well each example fits what is known [n]: the best ridge score, and the mean similarity of five neighbours.

    The one is low where no class claims an example (the maximal logit; Hendrycks et al., 2022), the other where nothing
    like it is remembered (deep nearest neighbours; Sun et al., 2022).
    """
    near = np.where(missing[:, :NEAREST], np.float32(0), similarity[:, :NEAREST])
    claim: Floats = ridge.max(1, initial=0.0) + near.sum(1) / np.float32(max(1, near.shape[1]))
    return claim


def gates(experts: Floats, rates: Floats, solved: bool) -> Floats:
    """Return how far each expert may speak [E, n]: the ridge once it is solved; the newest by the class's rate.

    A class's rate is its share of recent labels over its share of all; it is taken of the class that ridge and
    attention name.
    """
    named = (experts[0] * np.float32(solved) + experts[1]).argmax(1)
    newest: Floats = np.minimum(rates[named], np.float32(1.0)) ** np.float32(BURST)
    return np.stack([np.full_like(newest, solved), np.ones_like(newest), newest])


def ridge_opinion(scores: Floats, known: Bools) -> Floats:
    """Turn ridge scores [n, C'] into probabilities over the known classes [n, C]; C' <= C."""
    padded = np.pad(scores, ((0, 0), (0, len(known) - scores.shape[1]))) if scores.shape[1] < len(known) else scores
    return softmax(np.where(known, np.float32(RIDGE_SCALE) * padded, np.float32(-1e4)))


def shares(experts: Floats, open_: Floats, trust: Floats) -> Floats:
    """Return how far each expert is heard [E, n]: by the trust [E, C] in the classes at stake, as far as it may speak."""
    stake = np.einsum("enc,en->nc", experts, open_) / open_.sum(0)[:, None]
    share = (trust @ stake.T) * open_
    heard: Floats = share / np.maximum(share.sum(0), np.float32(1e-9))
    return heard


def pool(experts: Floats, share: Floats, known: Bools) -> Floats:
    """Pool probabilities [E, n, C] by the experts' shares [E, n]; return log-probabilities [n, C]."""
    mixed = np.float32(POOL) * np.einsum("en,enc->nc", share, np.log(experts + np.float32(FLOOR)))
    return log_softmax(np.where(known, mixed, np.float32(-50.0)))


@dataclass(frozen=True)
class Young:
    """Which classes have rows, and which of them the rule decides about [C]."""

    known: Bools
    young: Bools
    others: bool  # there are classes that are not young


def young_among(counts: Ints, solved: Ints) -> Young | None:
    """Return the young classes: at most 20 rows, alive [C] or in the solved ridge [C'], C' <= C; None without any.

    A class of which the solved ridge has few rows is young however many came since: the ridge would veto them.

    >>> young_among(np.array([50, 30, 3, 30]), np.array([50, 5, 3])).young.tolist()
    [False, True, True, True]
    """
    known, young = counts > 0, counts <= YOUNG
    if len(solved):
        young = young | (np.pad(solved, (0, len(counts) - len(solved))) <= YOUNG)
    young = young & known
    return Young(known, young, bool((known & ~young).any())) if young.any() else None


def young_rule(pooled: Floats, cosines: Floats, classes: Young) -> Floats:
    """Let the nearest mean decide about young classes, with a veto of the pool.

    ``m = softmax(0.7 log softmax(30 cos) + 0.3 log p_pooled)``, ``g = m(young classes)``; a young class gets m, the
    old ones share ``1 - g`` as the pool has it.
    """
    never, least = np.float32(-1e4), np.float32(1e-9)
    near = log_softmax(np.where(classes.known, np.float32(MEAN_SCALE) * cosines, never))
    mean = softmax(np.where(classes.known, np.float32(1 - VETO) * near + np.float32(VETO) * pooled, never))
    if classes.others:
        old = np.exp(pooled) * ~classes.young
        left = 1 - mean.sum(1, keepdims=True, where=classes.young)
        mean = np.where(classes.young, mean, left * old / np.maximum(old.sum(1, keepdims=True), least))
    return np.log(np.maximum(mean, least))


def decode(vectors: Tensor, head: HeadSnapshot, *, evidence: int = 0) -> list[Decoded]:
    """Answer vectors [n, dim] (float16) by one head's snapshot."""
    if not head.known.any():
        return [Decoded(label=None, confidence=0.0, scores={}, reason="no label has been learned yet")] * len(vectors)
    said = opine(vectors, head)
    probabilities = tempered(said.pooled, head)
    count = min(TOP, int(head.known.sum()))
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    top = np.take_along_axis(probabilities, classes, 1)
    return [_decoded(head, said, row, top[row].tolist(), classes[row].tolist(), evidence) for row in range(len(vectors))]


def tempered(pooled: Floats, head: HeadSnapshot) -> Floats:
    """Return the probabilities that pooled log-probabilities [..., C] stand for."""
    return softmax(np.float32(math.exp(head.temperature)) * pooled)


def _decoded(head: HeadSnapshot, said: Opinions, row: int, top: list[float], classes: list[int], evidence: int) -> Decoded:
    scores = {head.labels[c]: p for c, p in zip(classes, top, strict=True)}
    reason = head.limits.reason(top[0], float(said.fit[row]))
    return Decoded(label=head.labels[classes[0]] if reason is None else None, confidence=top[0], scores=scores, reason=reason,
                   neighbours=_neighbours(head, said, row, evidence), voices=_voices(head, said, row) if evidence else ())


def _neighbours(head: HeadSnapshot, said: Opinions, row: int, count: int) -> list[Neighbour]:
    """Name the neighbours that weighed most; ties go to the older slot."""
    if not count:
        return []
    found = []
    for place in np.argsort(-said.weight[row], kind="stable")[:count].tolist():
        slot = int(said.slots[row, place])
        if slot >= 0:
            found.append(Neighbour(slot=slot, row=int(head.rows[slot]), event=int(head.events[slot]),
                                   label=head.labels[int(head.targets[slot])],
                                   taught=head.labels[int(head.origins[slot])], weight=float(said.weight[row, place]),
                                   similarity=float(said.similarity[row, place]), source=head.sources[slot]))
    return found


def _voices(head: HeadSnapshot, said: Opinions, row: int) -> list[Voice]:
    """Say what each expert that was heard says; the nearest mean beside them where it decides about young classes."""
    rule = head.rule if head.young is not None else 0.0
    spoken = [(name, (1 - rule) * float(share), p) for name, share, p in
              zip(EXPERTS, said.shares[:, row], said.experts[:, row], strict=True)]
    spoken.append((NEAREST_MEAN, rule, np.exp(said.ruled[row])))
    return [Voice(expert=name, trust=trust, label=head.labels[int(p.argmax())], probability=float(p.max()))
            for name, trust, p in spoken if trust > 0]
