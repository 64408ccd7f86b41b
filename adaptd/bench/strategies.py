"""The class-incremental stream by strategy: what each one's candidates are worth with no gate between.

In-process, through the trainer's own code and one head: after each experience every strategy adapts its own last
adapter, the head answers with each in turn. All rows are learned and trained on, none is held out, and the pool's trust
stays where it begins; so methods differ by the adapter alone.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import trainer
from adaptd.bench.class_incremental import empty, prepare, tested
from adaptd.bench.learning_cost import enter, new_head
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Rows
from adaptd.bench.streams import Accuracies, ClassIncremental, Ints
from adaptd.config import Adapt
from adaptd.model.attention import Adapter
from adaptd.model.decoder import EXPERTS, opine
from adaptd.model.network import Head
from adaptd.strategies import Naive, register_strategies

QUICK_STEPS, CHUNK = 8, 256
ENCODE_S, TRAIN_S = 0.010, 10.0  # a text; an adaptation: to say beforehand how long a run takes
NEVER = "no adaptation"


@dataclass
class Contender:
    """A strategy with the adapter that it has come to; None never adapts."""

    strategy: Naive | None
    answers: Accuracies
    attention: Accuracies  # of the attention alone, before it is pooled with the ridge
    adapter: Adapter = field(default_factory=Adapter)
    cpu_s: float = 0.0

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.strategy.name if self.strategy else NEVER

    def adapt(self, head: Head, fresh: int, seed: int) -> None:
        """Train on all that the head has learned, of which the last rows are new."""
        if self.strategy is None:
            return
        size = head.memory.size
        rows = trainer.Rows(vectors=head.memory.vectors[:size], fresh=torch.arange(size) >= size - fresh,
                            targets=torch.from_numpy(head.memory.targets[:size].astype(np.int64)))
        job = trainer.Job(strategy=self.name, labels=list(head.labels), parent_pid=os.getpid(), seed=seed)
        began = time.process_time()
        self.adapter, _, _ = trainer.train(self.strategy, rows, self.adapter, job, "cpu", lambda _share, _words: None)
        self.cpu_s += time.process_time() - began

    def answer(self, head: Head, vectors: Tensor, labels: Sequence[str], after: int, experience: int) -> None:
        """Enter how one experience's tests are answered with this adapter, which the head has adopted."""
        snapshot, names = head.snapshot(), np.array(head.labels)
        said = [opine(block, snapshot) for block in torch.split(vectors, CHUNK)]
        alone = [one.experts[EXPERTS.index("attention")] for one in said]
        for into, scores in ((self.answers, [one.pooled for one in said]), (self.attention, alone)):
            into.record(after, experience, names[np.concatenate(scores).argmax(1)] == np.array(labels))

    def row(self) -> dict[str, Any]:
        """Return its row of the table."""
        alone = {f"attention {name}": value for name, value in self.attention.figures().items()}
        return {"method": self.name, **self.answers.figures(), **alone, "training cpu_s": self.cpu_s}


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    train, test, stream = prepare(run)
    adaptations = len(stream.experiences) * len(register_strategies()) if run.adapt else 0
    return (len(train) + len(test)) * ENCODE_S + adaptations * TRAIN_S * (QUICK_STEPS / Naive.steps if run.quick else 1)


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Give the stream to every strategy."""
    train, test, stream = prepare(run)
    with tools.task(f"{run.name}: encoding", len(train) + len(test)) as advance:
        vectors, asked = (torch.from_numpy(tools.encoded.layers(rows.texts, advance)) for rows in (train, test))
    contenders = _contenders(run, stream)
    with tools.task(f"{run.name}: adapting", len(stream.experiences) * len(contenders)) as advance, _one_thread():
        head = new_head(vectors.shape[1])
        for e, rows in enumerate(stream.experiences):
            _learn(head, vectors, train, rows)
            for contender in contenders:
                contender.adapt(head, len(rows), run.seed)
                head.adopt(contender.adapter)
                head.index()
                for j in tested(run, stream).get(e, ()):
                    tests = stream.tests(j)
                    contender.answer(head, asked[tests], [test.labels[i] for i in tests], e, j)
                advance(1)
    return {"rows": [contender.row() for contender in contenders], "axis": "experience; attention alone",
            "curves": {one.name: list(enumerate(one.attention.curve, 1)) for one in contenders}}


def _contenders(run: Run, stream: ClassIncremental) -> list[Contender]:
    steps = QUICK_STEPS if run.quick else Naive.steps
    chosen = [kind(steps=steps) for kind in register_strategies()] if run.adapt else []
    return [Contender(strategy, empty(stream), empty(stream)) for strategy in (None, *chosen)]


def _learn(head: Head, vectors: Tensor, train: Rows, rows: Ints) -> None:
    enter(head, vectors[torch.from_numpy(rows)], [train.labels[i] for i in rows])
    head.solve()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train as the daemon's trainer does; `import avalanche`, which takes seconds, is not the first strategy's fault."""
    importlib.import_module("adaptd.strategies.methods")
    threads = torch.get_num_threads()
    torch.set_num_threads(Adapt().threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
