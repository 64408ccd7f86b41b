"""Entities set by set and one set after another, beside the usual methods: the figures of docs/entities.md.

`python measure_entities.py DATA N [SET …]` reads DATA/ner_*; it needs sklearn-crfsuite. One pass over the first N training
sentences (0: all) through encoder, learner and decoder, as the daemon has them, in blocks of 128, no adaptation; then half as
many test sentences. Beside it linear models on the same vectors: of the first fifth, never fitted again, and of all; and a
conditional random field with the usual features. F1 of whole spans as they were given, by characters: a span whose boundary lies
in a word counts as wrong. `measure_entities.py DATA N after SET SET …`: what is left of each set when the next ones have been
learned; WNUT17's types are taken for those of the others.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from adaptd import beside, words
from adaptd.heads import Spans
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import Head, HeadOptions
from adaptd.model.tagging import decode_spans, likeliest
from adaptd.model.words import Words
from adaptd.policies import Balanced
from adaptd.records import Example, Learned, Row, event_of, part_of
from adaptd.retained import Bound
from adaptd.scores import entities
from adaptd.state import State

SEED, BLOCK, HELD, FIRST = 0, 128, 400, 5
FEATURES, NEIGHBOURS, PER_CLASS = 2048, 64, 2000  # as docs/entities.md has them
HEAD = "entities"
SETS = ("ner_wikigold", "ner_sec_filings", "ner_wnut17")
ALIKE = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG", "product": "MISC", "creative-work": "MISC"}
Json = dict[str, Any]
Sentence = tuple[str, list[Json]]


def main(data: Path, count: int, sets: Sequence[str]) -> None:
    """Print the figures of each set."""
    encoder = Words(device="cpu")
    encoder.load()
    for name in sets:
        train, test = read(data / name, count)
        began = time.process_time()
        vectors = encoded(encoder, [*train, *test])
        encoding = (time.process_time() - began) / len(train + test)
        life, began = Life(encoder.dim), time.process_time()
        life.learn(train, vectors)
        learning = (time.process_time() - began) / len(train)
        began = time.process_time()
        answers = life.answer(test, vectors)
        answering = (time.process_time() - began) / len(test)
        print(f"{name}: {len(train)} sentences of {sum(len(vectors[text]) for text, _ in train)} words, {len(test)} asked")
        print(f"CPU, that of encoding 1: learning {learning / encoding:.2f}, answering {answering / encoding:.2f}", flush=True)
        show(f"{name}: adaptd, one pass", test, answers, types=True)
        first = train[: len(train) // FIRST]
        show(f"{name}: linear model of the first fifth", test, linear(first, test, vectors))
        show(f"{name}: conditional random field of all", test, field(train, test))
        show(f"{name}: linear model of all", test, linear(train, test, vectors))


def after(data: Path, count: int, sets: Sequence[str]) -> None:
    """Print what is left of each set when the next ones have been learned."""
    encoder = Words(device="cpu")
    encoder.load()
    life, tested = Life(encoder.dim), dict[str, tuple[list[Sentence], Mapping[str, Any]]]()
    for name in sets:
        train, test = (alike(rows) for rows in read(data / name, count))
        life.learn(train, encoded(encoder, train))
        tested[name] = test, encoded(encoder, test)
        for before, (rows, vectors) in tested.items():
            show(f"after {name}: {before}", rows, life.answer(rows, vectors))


def alike(rows: Sequence[Sentence]) -> list[Sentence]:
    """Return sentences with the types that sets have in common."""
    return [(text, [{**one, "type": ALIKE.get(one["type"], one["type"])} for one in spans]) for text, spans in rows]


class Life:
    """A head that learns as the daemon's does, beside a store."""

    def __init__(self, dim: int) -> None:
        options = HeadOptions(dim=dim, features=FEATURES, neighbours=NEIGHBOURS, seed=1, kind=Spans())
        self.head = Head(options, RandomFeatures(dim, FEATURES, 1))
        bound = Bound(capacity=0, per_class=PER_CLASS, policy=Balanced())
        self.head.bounded.rules = lambda seq: bound
        self.head.bounded.read_from(self.fetch)
        self._state = State(version=1, seq=0, heads={HEAD: self.head})
        self._texts: list[Any] = []  # the vectors of each event
        self._rows = 0

    def fetch(self, places: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return the vectors of learned words."""
        return {place: self._texts[event_of(place)][part_of(place)] for place in places}

    def learn(self, rows: Sequence[Sentence], vectors: Mapping[str, Any]) -> None:
        """Learn sentences in their order."""
        def blocks() -> Iterator[list[Learned]]:
            for start in range(0, len(rows), BLOCK):
                yield [self._taught(row, vectors[row[0]]) for row in rows[start:start + BLOCK]]

        for _ in beside.outcomes(self._state, blocks(), self.fetch):
            pass

    def _taught(self, row: Sentence, vectors: Any) -> Learned:
        event, content = len(self._texts), hashlib.blake2b(row[0].encode(), digest_size=16).digest()
        self._texts.append(vectors)
        born = [Row(id=self._rows + part, event=event, part=part, head=HEAD, target=tag, born=event, source="measure",
                    content=content, holdout=False) for part, tag in enumerate(tags(row))]
        self._rows += len(born)
        return Learned(seq=event, domain=1, born=born)

    def answer(self, rows: Sequence[Sentence], vectors: Mapping[str, Any]) -> list[list[Json]]:
        """Return the answered spans of sentences."""
        self.head.index()
        frozen, found = self.head.snapshot(), list[list[Json]]()
        for start in range(0, len(rows), BLOCK):
            texts = [text for text, _ in rows[start:start + BLOCK]]
            found += [one.label for one in decode_spans([vectors[text] for text in texts], texts, frozen)]
        return found


def encoded(encoder: Words, rows: Sequence[Sentence]) -> dict[str, Any]:
    """Return the vectors of the words of sentences."""
    found: dict[str, Any] = {}
    for start in range(0, len(rows), BLOCK):
        texts = [text for text, _ in rows[start:start + BLOCK]]
        found |= zip(texts, encoder.encode([Example(text=text) for text in texts])[0], strict=True)
    return found


def read(folder: Path, count: int) -> tuple[list[Sentence], list[Sentence]]:
    """Return training and test sentences, in the order of the set, so many or all; where there is no split the test is drawn."""
    with gzip.open(folder / "data.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if {row["split"] for row in rows} == {"all"}:
        drawn = set(np.random.default_rng(SEED).permutation(len(rows))[:HELD].tolist())
        rows = [{**row, "split": "test" if place in drawn else "train"} for place, row in enumerate(rows)]
    train, test = ([sentence(row) for row in rows if row["split"] == split] for split in ("train", "test"))
    return (train[:count], test[: count // 2]) if count else (train, test)


def sentence(row: Json) -> Sentence:
    """Return the text of tokens, with one space between them, and its spans."""
    spans: list[Json] = []
    start = 0
    for token, tag in zip(row["tokens"], row["tags"], strict=True):
        if tag.startswith("B-"):
            spans.append({"start": start, "end": start + len(token), "type": tag[2:]})
        elif tag.startswith("I-"):
            spans[-1]["end"] = start + len(token)
        start += len(token) + 1
    return " ".join(row["tokens"]), spans


def tags(row: Sentence) -> list[str]:
    """Return the tag of each word."""
    head, spans = Spans(), row[1]
    return [*head.rows(head.check(spans, "label"), row[0]).values()]


def spans_of(text: str, found: Sequence[str]) -> list[Json]:
    """Return the spans that tags of words stand for."""
    places = words.words(text)
    return [Spans().shown(one, text, places) for one in words.spans(dict(enumerate(found)))]


def linear(train: Sequence[Sentence], test: Sequence[Sentence], vectors: Mapping[str, Any]) -> list[list[Json]]:
    """Return what a logistic regression on the same vectors answers, with the same decoding."""
    model = LogisticRegression(C=30, max_iter=100)
    words_of = torch.cat([vectors[text] for text, _ in train]).float().numpy()
    model.fit(words_of, [tag for row in train for tag in tags(row)])
    found = []
    for text, _ in test:
        path = likeliest(model.predict_proba(vectors[text].float().numpy()).astype(np.float32), list(model.classes_))
        found.append(spans_of(text, [model.classes_[tag] for tag in path.tolist()]))
    return found


def field(train: Sequence[Sentence], test: Sequence[Sentence]) -> list[list[Json]]:
    """Return what a conditional random field answers, with the features of sklearn-crfsuite's tutorial."""
    from sklearn_crfsuite import CRF  # needed here alone: pip install sklearn-crfsuite

    model = CRF(algorithm="lbfgs", c1=0.1, c2=0.1, max_iterations=100, all_possible_transitions=True)
    model.fit([features(text) for text, _ in train], [tags(row) for row in train])
    return [spans_of(text, model.predict_single(features(text))) for text, _ in test]


def features(text: str) -> list[Json]:
    """Return the features of each word."""
    parts = [text[start:end] for start, end in words.words(text)]

    def of(word: str, at: str) -> Json:
        return {f"{at}lower": word.lower(), f"{at}title": word.istitle(), f"{at}upper": word.isupper()}

    return [{"bias": 1.0, "last3": word[-3:], "last2": word[-2:], "digit": word.isdigit(), **of(word, ""),
             **(of(parts[place - 1], "-1:") if place else {"first": True}),
             **(of(parts[place + 1], "+1:") if place + 1 < len(parts) else {"last": True})} for place, word in enumerate(parts)]


def show(what: str, rows: Sequence[Sentence], found: Sequence[Sequence[Json]], *, types: bool = False) -> None:
    """Print precision, recall and F1."""
    def of(spans: Sequence[Json]) -> set[tuple[int, int, str]]:
        return {(one["start"], one["end"], one["type"]) for one in spans}

    figures = entities([(of(answer), of(truth)) for answer, (_, truth) in zip(found, rows, strict=True)])
    for kind, one in {what: figures, **(figures["types"] if types else {})}.items():
        print(f"{kind}: " + ", ".join(f"{name} {100 * one[name]:.1f}" for name in ("precision", "recall", "f1")), one["taught"],
              flush=True)


if __name__ == "__main__":
    if sys.argv[3:4] == ["after"]:
        after(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[4:])
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or SETS)
