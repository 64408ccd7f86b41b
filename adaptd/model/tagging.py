"""Tagging: from what is said of each word to the spans of a text, for heads of the kind `Spans`.

Each word is a row to the experts and is opined on as any example is (`adaptd.model.decoder`). Of the chances of its tags the
likeliest sequence that is one is taken: an I follows a B or an I of its type (Viterbi, 1967, over BIO; Ratinov and Roth, 2009). A
span is as sure as the least sure of its words; the whole answer as all words together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from adaptd.heads import Spans, Tagged
from adaptd.model.attention import Floats, Ints
from adaptd.model.decoder import Decoded, Neighbour, Opinions, neighbours, opine, tempered
from adaptd.model.reading import SELDOM, TOP
from adaptd.model.snapshot import HeadSnapshot
from adaptd.words import spans, words

NEVER = np.float32(-1e9)
TOGETHER = 1024  # words that are opined on at once: each takes as many random features as the head has


def decode_spans(vectors: Sequence[Tensor], texts: Sequence[str], head: HeadSnapshot, *, evidence: int = 0) -> list[Decoded]:
    """Answer texts by the vectors of their words [words, dim] and one head's snapshot; one without words has no spans."""
    if not head.known.any():
        return [Decoded(label=None, confidence=0.0, scores={}, reason="no label has been learned yet")] * len(vectors)
    return [one for some in _slices(vectors) for one in _together(vectors[some], texts[some], head, evidence)]


def _slices(vectors: Sequence[Tensor]) -> Iterator[slice]:
    """Divide texts into runs of so many words as are opined on at once; a text is not divided."""
    first, words = 0, 0
    for place, one in enumerate(vectors):
        if place > first and words + len(one) > TOGETHER:
            yield slice(first, place)
            first, words = place, 0
        words += len(one)
    yield slice(first, len(vectors))


def _together(vectors: Sequence[Tensor], texts: Sequence[str], head: HeadSnapshot, evidence: int) -> list[Decoded]:
    if not any(map(len, vectors)):
        return [Decoded(label=Tagged(), confidence=1.0, scores={})] * len(vectors)
    said = opine(torch.cat(list(vectors)), head)
    chances = tempered(said.pooled, head)
    found, first = [], 0
    for text, mine in zip(texts, vectors, strict=True):
        rows = slice(first, first + len(mine))
        found.append(_decoded(text, rows, said, chances, head, evidence) if len(mine)
                     else Decoded(label=Tagged(), confidence=1.0, scores={}))
        first = rows.stop
    return found


def likeliest(chances: Floats, tags: Sequence[str]) -> Ints:
    """Return the likeliest sequence of tags [n] that BIO allows, of the chances of each word's [n, C]."""
    begins = {tag[2:]: place for place, tag in enumerate(tags) if tag.startswith("B-")}
    goes_on = np.array([tag.startswith("I-") for tag in tags])
    begin = np.array([begins.get(tag[2:], place) if tag.startswith("I-") else place for place, tag in enumerate(tags)])
    every = np.arange(len(tags))
    scores = np.log(np.maximum(chances, np.float32(SELDOM)))
    best = np.where(goes_on, NEVER, scores[0])
    back = np.zeros(scores.shape, np.int64)
    for place in range(1, len(scores)):
        same = np.where(best[begin] > best, begin, every)  # before an I: its B, or itself
        back[place] = np.where(goes_on, same, int(best.argmax()))
        best = best[back[place]] + scores[place]
    path = np.zeros(len(scores), np.int64)
    path[-1] = int(best.argmax())
    for place in range(len(scores) - 1, 0, -1):
        path[place - 1] = back[place, path[place]]
    return path


def _decoded(text: str, rows: slice, said: Opinions, chances: Floats, head: HeadSnapshot, evidence: int) -> Decoded:
    assert isinstance(head.kind, Spans)
    mine, places = chances[rows], words(text)
    path = likeliest(mine, head.labels)
    sure = mine[np.arange(len(path)), path]
    answered, withheld = Tagged(), Tagged()
    for span in sorted(spans({word: head.labels[tag] for word, tag in enumerate(path.tolist())})):
        within = slice(span[0], span[1])
        confidence, fit = float(sure[within].min()), float(said.fit[rows][within].min())
        reason = head.limits.reason(confidence, fit)
        shown = {**head.kind.shown(span, text, places), "confidence": confidence}
        (answered if reason is None else withheld).append(shown if reason is None else {**shown, "reason": reason})
    inside = [rows.start + word for one in (*answered, *withheld) for word in range(*one["words"])]
    return Decoded(label=answered, confidence=float(sure.prod()), scores=_scores(mine, head), withheld=withheld,
                   neighbours=_neighbours(head, said, inside or range(rows.start, rows.stop), evidence))


def _scores(chances: Floats, head: HeadSnapshot) -> dict[str, float]:
    """Return how likely the types are, each where in the text it is likeliest."""
    best: dict[str, float] = {}
    for tag, chance in zip(head.labels, chances.max(0).tolist(), strict=True):
        if kind := tag[2:]:
            best[kind] = max(best.get(kind, 0.0), chance)
    known = sorted(best.items(), key=lambda one: -one[1])
    return dict(known[:TOP])


def _neighbours(head: HeadSnapshot, said: Opinions, rows: Sequence[int], count: int) -> list[Neighbour]:
    """Name the remembered words that weighed most in any of these."""
    def each() -> Iterator[Neighbour]:
        for row in rows if count else ():
            yield from neighbours(head, said, row, count)

    found: dict[int, Neighbour] = {}
    for one in sorted(each(), key=lambda one: (-one.weight, one.row)):
        found.setdefault(one.row, one)
    return list(found.values())[:count]
