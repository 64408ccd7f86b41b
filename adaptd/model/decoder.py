"""Decoder: ``y = Decoder(theta)``: several experts, pooled by learned trust, calibrated by one temperature.

Experts: ridge over everything, attention over memory, attention that prefers the newest of its neighbours, and, where upper
blocks of the encoder were tuned, those (`adaptd.model.upper`).
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
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from adaptd.model.attention import Bools, Floats, Ints, attend, log_softmax, newest_first, softmax, weigh
from adaptd.model.reading import Decision
from adaptd.records import Voice, event_of, part_of

if TYPE_CHECKING:
    from adaptd.model.snapshot import HeadSnapshot

EXPERTS = ("ridge", "attention", "attention-newest", "consolidated")  # the last one where upper blocks were tuned
NEAREST_MEAN = "nearest-mean"  # decides beside them where there are young classes
RIDGE_SCALE = 10.0  # turns ridge scores (targets 0 and 1) into log-odds
FLOOR = 0.01  # added to every probability before its logarithm: bounds what one expert can veto
POOL = 2.0
YOUNG, VETO = 20, 0.3  # a class with at most so many rows is young; the pool's share in what is said about it
MEAN_SCALE = 30.0
BURST = 1.5  # power of a class's rate in gates and evidence
NEAREST = 5  # neighbours whose similarity says how well an example fits


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One remembered row that weighed in an answer."""

    slot: int
    row: int
    event: int
    part: int
    label: Any
    taught: Any  # what its event was called first
    weight: float
    similarity: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One example's answer by one head."""

    label: Any  # None: it abstains
    confidence: float
    scores: dict[str, float]
    reason: str | None = None
    neighbours: Sequence[Neighbour] = ()
    voices: Sequence[Voice] = ()
    withheld: Sequence[Any] = ()  # spans that are not sure enough


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What every expert says of n examples, and what they say together."""

    experts: Floats  # [E, n, C] probabilities; E = 4 where upper blocks were tuned, else 3
    gates: Floats  # [E, n] 0 to 1: how far each may speak
    shares: Floats  # [E, n] how far each was heard
    plain: Floats  # [n, C] pooled log-probabilities
    ruled: Floats  # [n, C] the same under the rule for young classes
    pooled: Floats  # [n, C] what is answered, before the temperature
    similarity: Floats  # [n, k]
    slots: Ints  # [n, k], -1 = none
    weight: Floats  # [n, k] attention
    fit: Floats  # [n] how well each fits what is known


def opine(vectors: Tensor, head: HeadSnapshot, tuned: Tensor | None = None) -> Opinions:
    """Ask every expert about vectors [n, dim]; without `tuned` ones [n, width] tuned upper blocks are silent."""
    similarity, slots = head.retrieve(vectors)
    ridge = head.features(vectors) @ head.ridge
    return pool_opinions(head, ridge.numpy(), head.centres.scores(vectors, head.adapter).numpy(), similarity, slots, tuned)


def pool_opinions(head: HeadSnapshot, ridge: Floats, cosines: Floats, similarity: Floats, slots: Ints,
                  tuned: Tensor | None = None) -> Opinions:
    """Pool what the experts found: ridge scores [n, C'], cosines to class means [n, C], neighbours [n, k] (-1 = none)."""
    classes, missing, slot = len(head.labels), slots < 0, np.maximum(slots, 0)
    neighbour = head.targets[slot]
    score = similarity * np.float32(head.adapter.scale) + head.log_value[neighbour]
    weight = weigh(score, missing)
    newest = weigh(score, missing, newest_first(np.where(missing, -1, head.order[slot])))
    experts = np.stack([ridge_opinion(ridge, head.known), attend(weight, neighbour, classes), attend(newest, neighbour, classes)])
    open_ = gates(experts, head.rates, ridge.shape[1] > 0)
    if head.adapter.upper is not None:
        said, speaks = consolidated_opinion(experts, open_, head, tuned)
        experts, open_ = np.concatenate([experts, said[None]]), np.concatenate([open_, speaks[None]])
    heard = shares(experts, open_, head.trust)
    plain = pool(experts, heard, head.known)
    ruled = pooled = plain
    if head.young is not None:
        ruled = young_rule(plain, cosines, head.young)
        pooled = np.logaddexp(ruled + np.float32(math.log(head.rule)), plain + np.float32(math.log(1 - head.rule)))
    fits = nearest(similarity, missing) if head.limits.unseen else fit(ridge, similarity, missing)
    return Opinions(experts=experts, gates=open_, shares=heard, plain=plain, ruled=ruled, pooled=pooled, similarity=similarity,
                    slots=slots, weight=weight, fit=fits)


def fit(ridge: Floats, similarity: Floats, missing: Bools) -> Floats:
    """Return how well each example fits what is known [n]: the best ridge score, and the mean similarity of five neighbours.

    The one is low where no class claims an example (the maximal logit; Hendrycks et al., 2022), the other where nothing
    like it is remembered (deep nearest neighbours; Sun et al., 2022).
    """
    near = np.where(missing[:, :NEAREST], np.float32(0), similarity[:, :NEAREST])
    claim: Floats = ridge.max(1, initial=0.0) + near.sum(1) / np.float32(max(1, near.shape[1]))
    return claim


def nearest(similarity: Floats, missing: Bools) -> Floats:
    """Return the same of a head that replies [n]: how similar the nearest is; a reply mostly has one example."""
    if not similarity.shape[1]:
        return np.zeros(len(similarity), np.float32)
    found: Floats = np.where(missing[:, 0], np.float32(0), similarity[:, 0])
    return found


def gates(experts: Floats, rates: Floats, solved: bool) -> Floats:
    """Return how far each expert may speak [E, n]: the ridge once it is solved; the newest by the class's rate.

    A class's rate is its share of recent labels over its share of all; it is taken of the class that ridge and
    attention name.
    """
    named = (experts[0] * np.float32(solved) + experts[1]).argmax(1)
    newest: Floats = np.minimum(rates[named], np.float32(1.0)) ** np.float32(BURST)
    return np.stack([np.full_like(newest, solved), np.ones_like(newest), newest])


def consolidated_opinion(experts: Floats, open_: Floats, head: HeadSnapshot, tuned: Tensor | None) -> tuple[Floats, Floats]:
    """Return what tuned upper blocks say [n, C], and how far they may speak [n].

    They are silent where there is no tuned vector, and where the others name a class that they were not tuned on: they would
    call it by one of those that they know.
    """
    upper, place = head.adapter.upper, head.consolidated
    n, classes = experts.shape[1:]
    mine = np.flatnonzero(place >= 0)
    if tuned is None or upper is None or not len(mine):
        return np.full((n, classes), 1 / classes, np.float32), np.zeros(n, np.float32)
    scores = np.full((n, classes), np.float32(-1e4))
    scores[:, place[mine]] = upper.scores(tuned).numpy()[:, mine]
    learned = np.zeros(classes, np.float32)
    learned[place[mine]] = 1.0
    return softmax(scores), learned[(experts[:2] * open_[:2, :, None]).sum(0).argmax(1)]


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


def decode(vectors: Tensor, head: HeadSnapshot, tuned: Tensor | None = None, *, evidence: int = 0) -> list[Decoded]:
    """Answer vectors [n, dim] (float16) by one head's snapshot; `tuned` are those of its tuned upper blocks."""
    if not head.known.any():
        return [Decoded(label=None, confidence=0.0, scores={}, reason="no label has been learned yet")] * len(vectors)
    said = opine(vectors, head, tuned)
    decisions = head.reading.decisions(tempered(said.pooled, head), int(head.known.sum()))
    return [_decoded(head, said, row, decision, evidence) for row, decision in enumerate(decisions)]


def tempered(pooled: Floats, head: HeadSnapshot) -> Floats:
    """Return the probabilities that pooled log-probabilities [..., C] stand for."""
    return softmax(np.float32(math.exp(head.temperature)) * pooled)


def _decoded(head: HeadSnapshot, said: Opinions, row: int, decision: Decision, evidence: int) -> Decoded:
    reason = head.limits.reason(decision.confidence, float(said.fit[row]))
    return Decoded(label=head.kind.label(decision.target) if reason is None else None, confidence=decision.confidence,
                   scores=decision.scores, reason=reason, neighbours=neighbours(head, said, row, evidence),
                   voices=_voices(head, said, row) if evidence else ())


def neighbours(head: HeadSnapshot, said: Opinions, row: int, count: int) -> list[Neighbour]:
    """Name the neighbours that weighed most; ties go to the older slot."""
    if not count:
        return []
    found = []
    for rank in np.argsort(-said.weight[row], kind="stable")[:count].tolist():
        slot = int(said.slots[row, rank])
        if slot >= 0:
            place = int(head.events[slot])
            found.append(Neighbour(slot=slot, row=int(head.rows[slot]), event=event_of(place), part=part_of(place),
                                   label=_label(head, int(head.targets[slot])), taught=_label(head, int(head.origins[slot])),
                                   weight=float(said.weight[row, rank]), similarity=float(said.similarity[row, rank]),
                                   source=head.sources[slot]))
    return found


def _label(head: HeadSnapshot, place: int) -> Any:
    return head.kind.label(head.labels[place])


def _voices(head: HeadSnapshot, said: Opinions, row: int) -> list[Voice]:
    """Say what each expert that was heard says; the nearest mean beside them where it decides about young classes."""
    rule = head.rule if head.young is not None else 0.0
    spoken = [(name, (1 - rule) * float(share), p) for name, share, p in
              zip(EXPERTS, said.shares[:, row], said.experts[:, row], strict=False)]
    spoken.append((NEAREST_MEAN, rule, np.exp(said.ruled[row])))
    return [Voice(expert=name, trust=trust, label=_label(head, int(p.argmax())), probability=float(p.max()))
            for name, trust, p in spoken if trust > 0]
