"""Heads: several of one daemon over a stream in the order of time, beside models that are fitted once, nightly, or at last.

Each block of events is answered, then their labels come back as feedback. A tenth of the first fifth is never taught: it is
asked after that fifth and at the end, and what it lost is forgetting. The others are linear models on the daemon's own vectors:
fitted once on the first fifth, refitted on all history every so often, and fitted at last on everything before the last fifth.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adaptd.bench import sets
from adaptd.bench.daemon import TEXTS, Daemon
from adaptd.bench.peers import Floats
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools, estimate_s
from adaptd.bench.streams import Ints, blocks
from adaptd.heads import Classify, Head, Labels, Ordinal, as_target, facts
from adaptd.scores import f1

Json = dict[str, Any]
BLOCK, NIGHT, HELD = 50, 500, 10  # events answered before their labels come; between refits; one of so many is never taught
STRENGTH = 10.0  # C of the logistic regression


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Texts with a label for each head, in the order of time."""

    heads: dict[str, Head]
    texts: list[str]
    labels: list[dict[str, Any]]


def _airline(row: Json) -> tuple[str, dict[str, Any]]:
    return row["text"], {"sentiment": row["label"], **({"topic": row["reason"]} if row["reason"] else {})}


def _reuters(row: Json) -> tuple[str, dict[str, Any]]:
    return f"{row['title']}\n{row['text']}"[:200], {"topic": row["topics"]}


KINDS: dict[str, tuple[dict[str, Head], Callable[[Json], tuple[str, dict[str, Any]]], int]] = {  # and one event of how many
    "airline_tweets": ({"sentiment": Ordinal(classes=("negative", "neutral", "positive")), "topic": Classify()}, _airline, 4),
    "reuters_stream": ({"topic": Labels()}, _reuters, 4)}


def prepare(run: Run) -> Stream:
    """Read a set; every fourth event of it."""
    heads, read, each = KINDS[run.set]
    with gzip.open(sets.data_folder(run.data) / run.set / "data.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [read(json.loads(line)) for line in lines][::each]
    rows = rows[:QUICK_EVENTS] if run.quick else rows
    return Stream(heads=heads, texts=[text for text, _ in rows], labels=[label for _, label in rows])


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    n = len(prepare(run).texts)
    return estimate_s(n, n, adapt=run.adapt)


def measure(run: Run, tools: Tools) -> Json:
    """Give the stream to a daemon, and to the linear models."""
    stream = prepare(run)
    n = len(stream.texts)
    first, last = n // 5, n - n // 5
    held = np.arange(0, first, HELD)
    taught = np.setdiff1d(np.arange(n), held)
    said, cpu_s = _daemon(run, tools, stream, taught, held, first)
    with tools.task(f"{run.name}: encoding for the others", n) as advance:
        vectors = tools.encoded.inputs(stream.texts, advance).vectors
    rows = []
    for name, head in stream.heads.items():
        mine = [row for row in taught[taught >= last] if name in stream.labels[row]]
        truth = [stream.labels[row][name] for row in mine]
        before, after = (_score(head, [(answers[row][name], stream.labels[row][name])
                                       for row in held.tolist() if name in stream.labels[row]]) for answers in said[1:])
        figures = {"adaptd": _score(head, [(said[0][row][name], label) for row, label in zip(mine, truth, strict=True)])}
        for method, answers in _others(head, name, stream, vectors, taught, first, last, mine).items():
            figures[method] = _score(head, list(zip(answers, truth, strict=True)))
        lost = {"adaptd": {"forgetting": before - after, "cpu_s": cpu_s}}
        rows += [{"method": method, "what": name, "last fifth": value, "forgetting": None, "cpu_s": None, **lost.get(method, {})}
                 for method, value in figures.items()]
    return {"rows": rows}


def _score(head: Head, pairs: Sequence[tuple[Any, Any]]) -> float:
    """Return micro F1 of several labels, else accuracy, in percent."""
    if isinstance(head, Labels):
        return 100 * f1([(set(answer or ()), set(truth)) for answer, truth in pairs])["micro_f1"]
    return 100.0 * sum(bool(answer == truth) for answer, truth in pairs) / max(1, len(pairs))


def _daemon(run: Run, tools: Tools, stream: Stream, taught: Ints, held: Ints,
            first: int) -> tuple[tuple[dict[int, Json], ...], float]:
    """Return what was answered in the stream, and of what is never taught after the first fifth and at the end."""
    answers, early = dict[int, Json](), dict[int, Json]()
    heads = {name: facts(head) for name, head in stream.heads.items()}
    setting = replace(TEXTS, variables={**TEXTS.variables, "ADAPTD_DOMAINS__TEXT__OPTIONS": json.dumps({"heads": heads})})
    with Daemon(adapt=run.adapt, setting=setting) as daemon:
        def ask(rows: Ints) -> list[tuple[str, Json]]:
            found = daemon.predict([stream.texts[row] for row in rows])
            return [(event, label if isinstance(label, dict) else dict.fromkeys(stream.heads, label)) for event, label in found]

        with tools.task(f"{run.name}: adaptd", len(taught)) as advance:
            for block in blocks(taught, BLOCK):
                if not early and block[0] >= first:
                    early = dict(zip(held.tolist(), [label for _, label in ask(held)], strict=True))
                found = ask(block)
                answers |= dict(zip(block.tolist(), [label for _, label in found], strict=True))
                truth = [stream.labels[row] for row in block]
                daemon.feedback([event for event, _ in found],
                                truth if len(stream.heads) > 1 else [next(iter(one.values())) for one in truth])
                daemon.pause_for_adaptation()
                advance(len(block))
        late = dict(zip(held.tolist(), [label for _, label in ask(held)], strict=True))
    return (answers, early, late), daemon.cpu_s


def _others(head: Head, name: str, stream: Stream, vectors: Floats, taught: Ints, first: int, last: int,
            asked: Sequence[int]) -> dict[str, list[Any]]:
    rows = np.array([row for row in taught.tolist() if name in stream.labels[row]])
    labels = {row: stream.labels[row][name] for row in rows.tolist()}

    def answered(until: int, some: Sequence[int]) -> list[Any]:
        known = rows[rows < until]
        return _linear(head, vectors[known], [labels[row] for row in known.tolist()], vectors[list(some)]) if some else []

    nights = range(last, len(stream.texts), NIGHT)
    cron = [answer for night in nights for answer in answered(night, [row for row in asked if night <= row < night + NIGHT])]
    return {"fitted once": answered(first, asked), "cron": cron, "fitted at last": answered(last, asked)}


def _linear(head: Head, vectors: Floats, labels: Sequence[Any], asked: Floats) -> list[Any]:
    """Fit a logistic regression, of several labels one for each, and answer."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    model = LogisticRegression(C=STRENGTH, max_iter=300)
    if isinstance(head, Labels):
        names = MultiLabelBinarizer()
        several = OneVsRestClassifier(model).fit(vectors, names.fit_transform(labels))
        return [list(one) for one in names.inverse_transform(several.predict(asked))]
    return list(model.fit(vectors, [as_target(label) for label in labels]).predict(asked))
