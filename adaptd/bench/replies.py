"""Replies and documents: whether the right answer is found, and whether what nobody has answered goes to a person.

In-process, through the daemon's own learner on stored vectors. replies: the training split in random order, each intent's reply
given by its first event; every event is answered before its label comes. documents: a question bank, its answers as the passages.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd.bench import sets
from adaptd.bench.learning_cost import entry, learning, new_head
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools
from adaptd.bench.streams import Bools, Ints, blocks, percent
from adaptd.errors import MissingExtra
from adaptd.heads import Reply
from adaptd.model.decoder import decode

Said = list[tuple[list[str], bool]]  # of each event: labels, the best first, and whether it was answered
BLOCK, EVENTS, NEAR, EVENT_S = 50, 3000, 5, 0.05
QUESTIONS = "bank_faq"
COLUMNS = ("method", "known right", "known in five", "known answered", "new answered", "wrong of answered")


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    return EVENTS * EVENT_S


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Ask memory and its rivals the same, event by event; or documents."""
    return {"rows": _documents(run, tools) if run.set == QUESTIONS else _replies(run, tools)}


def _replies(run: Run, tools: Tools) -> list[dict[str, Any]]:
    train = run.load().split("train")
    order = np.random.RandomState(run.seed).permutation(len(train))[: QUICK_EVENTS if run.quick else EVENTS]
    texts, labels = [train.texts[i] for i in order], [train.labels[i] for i in order]
    with tools.task(f"{run.name}: encoding", len(texts)) as advance:
        vectors = torch.from_numpy(tools.encoded.layers(texts, advance))
    names = ("adaptd", "adaptd, abstain_error 10 %", "nearest neighbour", "BM25", "frozen once")
    found: dict[str, Said] = {name: [] for name in names}
    with tools.task(f"{run.name}: answering", len(texts)) as advance:
        for block, ours, careful in _stream(vectors, labels):
            past = int(block[0])
            found["adaptd"] += ours
            found["adaptd, abstain_error 10 %"] += careful
            found["nearest neighbour"] += _nearest(vectors[block], vectors[:past], labels)
            found["frozen once"] += _nearest(vectors[block], vectors[:len(texts) // 10], labels)
            found["BM25"] += _bm25([texts[i] for i in block], texts[:past], labels)
            advance(len(block))
    return [_row(name, said, labels) for name, said in found.items()]


def _stream(vectors: Tensor, labels: Sequence[str]) -> Iterator[tuple[Ints, Said, Said]]:
    """Answer each block but the first, then learn it; yield what was near by label, and whether it was answered: twice."""
    head = new_head(vectors.shape[1], Reply())
    with learning(head, vectors, -1) as learner:
        for block in blocks(np.arange(len(labels)), BLOCK):
            if head.labels:
                said = decode(vectors[torch.from_numpy(block)], head.snapshot())
                limit = head.fold.recent.limits(0.1, 0.0, Reply().unseen).confidence
                yield (block, [(list(one.scores), one.label is not None) for one in said],
                       [(list(one.scores), one.label is not None and one.confidence >= limit) for one in said])
            learner.deliver([entry(int(i), labels[i]) for i in block])
            learner.call(lambda: None).result()  # the ridge solved over all of it


def _nearest(asked: Tensor, past: Tensor, labels: Sequence[str]) -> Said:
    """Return the labels of the nearest remembered events, which always are an answer."""
    ranked = np.argsort(-(asked.float() @ past.float().T).numpy(), axis=1, kind="stable")
    return [(_distinct(row, labels), True) for row in ranked]


def _bm25(asked: Sequence[str], past: Sequence[str], labels: Sequence[str]) -> Said:
    """Return the labels of the events with the most words in common (Robertson and Zaragoza, 2009)."""
    return [(_distinct(row, labels), True) for row in _ranked(asked, past, min(50, len(past)))]


def _ranked(asked: Sequence[str], among: Sequence[str], count: int) -> Ints:
    try:
        bm25s = importlib.import_module("bm25s")
    except ImportError:
        raise MissingExtra("BM25 needs bm25s", hint="pip install 'adaptd[demo]'") from None
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(among), show_progress=False), show_progress=False)
    rows, _ = index.retrieve(bm25s.tokenize(list(asked), show_progress=False), k=min(count, len(among)), show_progress=False)
    found: Ints = rows
    return found


def _distinct(ranked: Ints, labels: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(labels[i] for i in ranked[:50]))[:NEAR]


def _row(name: str, said: Said, labels: Sequence[str]) -> dict[str, Any]:
    """Return figures over the events behind the first block; what is known was answered in an earlier block."""
    begun = len(labels) - len(said)
    first = {label: place for place, label in reversed(list(enumerate(labels)))}
    known: Bools = np.array([first[labels[i]] < i - i % BLOCK for i in range(begun, len(labels))])
    right: Bools = np.array([near[:1] == [labels[i]] for i, (near, _) in enumerate(said, begun)])
    among: Bools = np.array([labels[i] in near for i, (near, _) in enumerate(said, begun)])
    given: Bools = np.array([answered for _, answered in said])
    figures = (right[known], among[known], given[known], given[~known], ~right[given])
    return dict(zip(COLUMNS, (name, *map(percent, figures)), strict=True))


def _documents(run: Run, tools: Tools) -> list[dict[str, Any]]:
    """Ask a question bank's questions of its answers."""
    file = sets.data_folder(run.data) / QUESTIONS / "data.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][: QUICK_EVENTS if run.quick else None]
    answers = list(dict.fromkeys(row["answer"] for row in rows))
    place = {answer: i for i, answer in enumerate(answers)}
    truth = np.array([place[row["answer"]] for row in rows])
    with tools.task(f"{run.name}: encoding", len(rows) + len(answers)) as advance:
        asked, among = (tools.encoded.layers(texts, advance).astype(np.float32)
                        for texts in ([row["text"] for row in rows], answers))
    ranked = {"adaptd": np.argsort(-(asked @ among.T), axis=1, kind="stable")[:, :NEAR],
              "BM25": _ranked([row["text"] for row in rows], answers, NEAR)}
    return [{"method": name, "passages": len(answers),
             **{f"recall@{k}": percent((found[:, :k] == truth[:, None]).any(1)) for k in (1, 3, NEAR)}}
            for name, found in ranked.items()]
