"""Upper blocks that are tuned, by method: what each is worth beside the other experts, with no gate between.

In-process, through the consolidation's own code: the training rows come in random order; after each half of them every method
tunes blocks on all that came, so the second time there is a champion to learn from. The test split is asked at the end. All rows
are learned and tuned on, none is held out, and the pool's trust stays where it begins; attention is not trained.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import consolidate, trainer
from adaptd.bench.learning_cost import enter, new_head
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Rows
from adaptd.config import Adapt
from adaptd.model.attention import Adapter
from adaptd.model.decoder import EXPERTS, opine
from adaptd.model.network import Head
from adaptd.model.threads import one_thread
from adaptd.model.tuning import RATES, Tuning
from adaptd.model.upper import Upper
from adaptd.records import Example

HALVES, CHUNK, TESTED = 2, 256, 4  # each fourth row is a test, where a set has no test split
ENCODE_S, TUNE_S = 0.010, 0.016  # a text; one that is tuned on, in an epoch: to say beforehand how long a run takes
QUICK_ROWS = 200
WITHOUT = "no consolidation"


def methods(run: Run) -> dict[str, Tuning]:
    """Return what is compared, by what tables call it."""
    plain = {method: Tuning(method=method, epochs=1 if run.quick else Tuning.epochs) for method in RATES}  # type: ignore[arg-type]
    return {**plain, "full, distilled": replace(plain["full"], distil=1.0), "full, averaged": replace(plain["full"], average=0.5)}


def prepare(run: Run) -> tuple[Rows, Rows]:
    """Return what is learned, in random order, and what is asked."""
    data = run.load()
    if "test" in data.splits:
        train, test = data.split("train"), data.split("test")
    else:
        (every,) = data.splits.values()
        asked = np.arange(len(every)) % TESTED == 0
        train, test = (_picked(every, np.flatnonzero(mine)) for mine in (~asked, asked))
    train = _picked(train, np.random.default_rng(run.seed).permutation(len(train)))
    return (train.head(QUICK_ROWS), test.head(QUICK_ROWS)) if run.quick else (train, test)


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    train, test = prepare(run)
    epochs = sum(how.epochs for how in methods(run).values())
    return (len(train) + len(test)) * ENCODE_S + len(train) * 1.5 * epochs * TUNE_S


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Consolidate by every method."""
    train, test = prepare(run)
    with tools.task(f"{run.name}: encoding", len(train) + len(test)) as advance:
        vectors, asked = (torch.from_numpy(tools.encoded.layers(rows.texts, advance)) for rows in (train, test))
    head = new_head(vectors.shape[1])
    enter(head, vectors, train.labels)
    head.solve()
    targets = torch.from_numpy(head.memory.targets[:head.memory.size].astype(np.int64))
    rows = [{"method": WITHOUT, "together": _accuracy(head, test, asked, None)[0], "alone": None, "tuning cpu_s": 0.0}]
    compared = methods(run)
    with tools.task(f"{run.name}: tuning", HALVES * len(compared)) as advance, one_thread(Adapt().threads == 1):
        for name, how in compared.items():
            began = time.process_time()
            upper: Upper | None = None
            for half in range(1, HALVES + 1):
                count = len(train) * half // HALVES
                job = trainer.Job(strategy="consolidate", labels=list(head.labels), parent_pid=os.getpid(), seed=run.seed)
                upper, _, _ = consolidate.tuned(tools.encoded.encoder, train.texts[:count], targets[:count], job, how, upper,
                                                lambda _share, _words: None)
                advance(1)
            spent = time.process_time() - began
            assert upper is not None
            head.adopt(Adapter(upper=upper))
            together, alone = _accuracy(head, test, asked, _tuned(tools, test, upper))
            rows.append({"method": name, "together": together, "alone": alone, "tuning cpu_s": spent})
    return {"rows": rows}


def _tuned(tools: Tools, test: Rows, upper: Upper) -> Tensor:
    examples = [[Example(text=text) for text in test.texts[start:start + CHUNK]] for start in range(0, len(test), CHUNK)]
    return torch.cat([tools.encoded.encoder.tuned(some, upper) for some in examples])


def _accuracy(head: Head, test: Rows, asked: Tensor, tuned: Tensor | None) -> tuple[float, float | None]:
    """Return the accuracy in percent of the whole answer and of the tuned blocks alone."""
    head.index()
    snapshot, names = head.snapshot(), np.array(head.labels)
    said = [opine(asked[start:start + CHUNK], snapshot, None if tuned is None else tuned[start:start + CHUNK])
            for start in range(0, len(asked), CHUNK)]
    wanted = np.array(test.labels)

    def right(scores: list[Any]) -> float:
        return 100 * float((names[np.concatenate(scores).argmax(1)] == wanted).mean())

    alone = None if tuned is None else right([one.experts[EXPERTS.index("consolidated")] for one in said])
    return right([one.pooled for one in said]), alone


def _picked(rows: Rows, places: Any) -> Rows:
    return Rows([rows.texts[i] for i in places], [rows.labels[i] for i in places])
