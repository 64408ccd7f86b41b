"""Entities: the spans of texts, learned in one pass, beside what is fitted once, what is fitted on all, and a random field.

`--set A+B+C`: one set after the other, with the types that they have in common. Never taught are the test sentences, and those
that forgetting is read off: they are asked when what is like them has been learned, and at the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adaptd import words
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import QUICK_ROWS, Run, Tools, estimate_s
from adaptd.bench.sets import Rows, Setting
from adaptd.bench.streams import blocks
from adaptd.errors import MissingExtra
from adaptd.heads import Spans
from adaptd.records import Example
from adaptd.scores import entities

SENTENCES, PER_TEST = 600, 2  # learned; one asked for so many of them
BLOCK, FIRST, HELD = 25, 5, 4  # learned at once; the first fifth; one of so many of it is never taught
STRENGTH = 30.0  # C of the logistic regression
ALIKE = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG", "product": "MISC", "creative-work": "MISC"}
Json = dict[str, Any]
Found = Sequence[Sequence[Json]]
Vectors = Mapping[str, Any]  # of the words of each text


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Texts with their spans: in the order in which they are taught, and what is asked."""

    taught: Rows
    first: int  # of those taught: what a frozen model knows, and `early` is like
    early: Rows
    test: Rows
    setting: Setting


def prepare(run: Run) -> Stream:
    """Read one set, or several that come one after the other; sentences are drawn by the seed."""
    sets = [replace(run, set=name).load() for name in run.set.split("+")]
    count = QUICK_ROWS if run.quick else run.events or SENTENCES
    kinds = ALIKE if len(sets) > 1 else {}
    train = [_drawn(data.split("train"), count // len(sets), run.seed, kinds) for data in sets]
    test = [_drawn(data.split("test"), count // len(sets) // PER_TEST, run.seed, kinds) for data in sets]
    if len(sets) > 1:
        return Stream(taught=_joined(train), first=len(train[0]), early=test[0], test=_joined(test), setting=sets[0].setting)
    part = len(train[0]) // FIRST
    held = range(0, part, HELD)
    kept = [row for row in range(len(train[0])) if row not in held]
    return Stream(taught=_taken(train[0], kept), first=part - len(held), early=_taken(train[0], held), test=test[0],
                  setting=sets[0].setting)


def _drawn(rows: Rows, count: int, seed: int, kinds: Mapping[str, str]) -> Rows:
    some = _taken(rows, np.random.RandomState(seed).permutation(len(rows))[:count].tolist())
    return Rows(some.texts, [[{**one, "type": kinds.get(one["type"], one["type"])} for one in spans] for spans in some.labels])


def _taken(rows: Rows, places: Sequence[int]) -> Rows:
    return Rows([rows.texts[i] for i in places], [rows.labels[i] for i in places])


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows([text for part in parts for text in part.texts], [label for part in parts for label in part.labels])


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    stream = prepare(run)
    return estimate_s(2 * len(stream.taught), 2 * len(stream.test), adapt=run.adapt)


def measure(run: Run, tools: Tools) -> Json:
    """Teach a daemon, and fit the others; all answer the same test sentences."""
    stream = prepare(run)
    early, late, said, cpu_s = _daemon(run, tools, stream)
    figures = {"adaptd": _figures(said, stream.test)}
    lost = _figures(early, stream.early)["f1"] - _figures(late, stream.early)["f1"]
    texts = list(dict.fromkeys([*stream.taught.texts, *stream.test.texts]))
    encoder, vectors = tools.encoded.of(stream.setting).encoder, dict[str, Any]()
    with tools.task(f"{run.name}: encoding for the others", len(texts)) as advance:
        for start in range(0, len(texts), BLOCK):
            some = texts[start:start + BLOCK]
            vectors |= zip(some, encoder.encode([Example(text=text) for text in some])[0], strict=True)
            advance(len(some))
    asked = stream.test.texts
    others: Mapping[str, Callable[[], Found]] = {
        "linear, fitted once": lambda: _linear(stream.taught.head(stream.first), asked, vectors),
        "conditional random field, of all": lambda: _field(stream.taught, asked),
        "linear, of all": lambda: _linear(stream.taught, asked, vectors)}
    with tools.task(f"{run.name}: others", len(others)) as advance:
        for name, answers in others.items():
            figures[name] = _figures(answers(), stream.test)
            advance(1)
    ours = {"adaptd": {"forgetting": 100 * lost, "cpu_s": cpu_s}}
    return {"rows": [{"method": name, **{what: 100 * one[what] for what in ("f1", "precision", "recall")},
                      "forgetting": None, "cpu_s": None, **ours.get(name, {})} for name, one in figures.items()],
            "types": figures["adaptd"]["types"],
            "remark": f"{len(stream.taught)} sentences taught, the first {stream.first} of them to what is fitted once; "
                      f"{len(stream.test)} asked, and {len(stream.early)} of which forgetting is read off."}


def _daemon(run: Run, tools: Tools, stream: Stream) -> tuple[Found, Found, Found, float]:
    """Return what was answered to early sentences after the first ones and at the end, and to the test sentences."""
    early = None
    with Daemon(adapt=run.adapt, setting=stream.setting) as daemon, \
            tools.task(f"{run.name}: adaptd", len(stream.taught)) as advance:
        def ask(rows: Rows) -> Found:
            return [spans for _, spans in daemon.predict(rows.texts)]

        for part in (np.arange(stream.first), np.arange(stream.first, len(stream.taught))):
            for block in blocks(part, BLOCK):
                rows = _taken(stream.taught, block.tolist())
                daemon.learn(rows.texts, rows.labels)
                daemon.pause_for_adaptation()
                advance(len(rows))
            daemon.settle()
            early = early or ask(stream.early)
        late, said = ask(stream.early), ask(stream.test)
    return early or [], late, said, daemon.cpu_s


def _figures(found: Found, rows: Rows) -> Json:
    """Return precision, recall and F1 of whole spans by characters: one whose boundary lies in a word counts as wrong."""
    def of(spans: Sequence[Json]) -> set[words.Span]:
        return {(one["start"], one["end"], one["type"]) for one in spans}

    return entities([(of(answer), of(truth)) for answer, truth in zip(found, rows.labels, strict=True)])


def _tags(rows: Rows) -> list[list[str]]:
    """Return the tag of each word of each text."""
    head = Spans()
    return [[*head.rows(head.check(spans, "label"), text).values()] for text, spans in zip(rows.texts, rows.labels, strict=True)]


def _spans(text: str, tags: Sequence[str]) -> list[Json]:
    """Return the spans that tags of words stand for."""
    places = words.words(text)
    return [Spans().shown(one, text, places) for one in words.spans(dict(enumerate(tags)))]


def _linear(taught: Rows, asked: Sequence[str], vectors: Vectors) -> Found:
    """Return what a logistic regression on the same vectors answers, with the same decoding."""
    from sklearn.linear_model import LogisticRegression

    from adaptd.model.tagging import likeliest

    model = LogisticRegression(C=STRENGTH, max_iter=100)
    every = np.concatenate([vectors[text].float().numpy() for text in taught.texts])
    model.fit(every, [tag for row in _tags(taught) for tag in row])
    found = []
    for text in asked:
        path = likeliest(model.predict_proba(vectors[text].float().numpy()).astype(np.float32), list(model.classes_))
        found.append(_spans(text, [model.classes_[tag] for tag in path.tolist()]))
    return found


def _field(taught: Rows, asked: Sequence[str]) -> Found:
    """Return what a conditional random field answers, with the features of sklearn-crfsuite's tutorial."""
    try:
        package = importlib.import_module("sklearn_crfsuite")
    except ImportError:
        raise MissingExtra("sklearn-crfsuite is not installed", hint="pip install 'adaptd[peers]'") from None
    model = package.CRF(algorithm="lbfgs", c1=0.1, c2=0.1, max_iterations=100, all_possible_transitions=True)
    model.fit([_features(text) for text in taught.texts], _tags(taught))
    return [_spans(text, model.predict_single(_features(text))) for text in asked]


def _features(text: str) -> list[Json]:
    """Return the features of each word."""
    parts = [text[start:end] for start, end in words.words(text)]

    def of(word: str, at: str) -> Json:
        return {f"{at}lower": word.lower(), f"{at}title": word.istitle(), f"{at}upper": word.isupper()}

    return [{"bias": 1.0, "last3": word[-3:], "last2": word[-2:], "digit": word.isdigit(), **of(word, ""),
             **(of(parts[place - 1], "-1:") if place else {"first": True}),
             **(of(parts[place + 1], "+1:") if place + 1 < len(parts) else {"last": True})} for place, word in enumerate(parts)]
