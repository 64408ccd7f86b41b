"""What a labelled example costs to learn, encoding apart: the daemon's own learner and inference thread, in-process.

Rows are the real vectors of a set; beyond its size, near copies of them (noise of a tenth of the norm, layers put back
to their length): nobody labels 100,000 texts for a benchmark, and the cost depends on the number of rows alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaptd.bench.streams import BATCH
from adaptd.config import Learn, Quarantine
from adaptd.config import Memory as MemorySettings
from adaptd.heads import Head as Kind
from adaptd.learn import Learner
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions
from adaptd.model.snapshot import ONE_LABEL
from adaptd.predict import Inference
from adaptd.records import Learned, Row
from adaptd.state import State

LEARNED_BEFORE = (1_000, 10_000, 100_000)
MEASURED = 2_560  # examples: ten solves of the ridge, amortised
NOISE, PREFILL = 0.1, 4_096


def near(vectors: Tensor, count: int, layers: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `count` vectors [count, dim] like the given ones, and of which each is a copy."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.arange(count) % len(vectors)
    real = vectors[source].float().view(count, layers, -1)
    noise = torch.randn(real.shape, generator=generator) * (NOISE * layers**-0.5 * real.shape[2] ** -0.5)
    noise[:len(vectors)] = 0.0
    return (normalize(real + noise, dim=-1) * layers**-0.5).view(count, -1).half(), source


def measure(vectors: Tensor, labels: Sequence[str], layers: int, before: int, examples: int) -> dict[str, Any]:
    """Learn `examples` in batches of 15 after `before`; return wall and CPU milliseconds an example, with solves."""
    made, source = near(vectors, before + examples, layers, seed=0)
    targets = [labels[i] for i in source.tolist()]
    head = _head(made.shape[1], made[:before], targets[:before])
    with learning(head, made, before) as learner:
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(before, before + examples, BATCH):
            block = range(start, min(start + BATCH, before + examples))
            learner.deliver([entry(event, targets[event]) for event in block])
            learner.when(block[-1]).result()
        learner.call(lambda: None).result()  # the ridge solved over all of it
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"learned before": before, "ms": 1000 * wall / examples, "cpu ms": 1000 * cpu / examples}


@contextmanager
def learning(head: Head, vectors: Tensor, seq: int) -> Iterator[Learner]:
    """Give a learner of the head that has learned up to seq; event i has vector i."""
    inference = Inference({}, 10_000)
    learner = Learner("bench", State(version=1, seq=seq, heads={"label": head}), inference,
                      lambda events: {event: vectors[event] for event in events}, lambda events: {},
                      block=Learn().block, solve_after_s=Learn().solve_after_s, quarantine=Quarantine())
    inference.start()
    learner.start()
    yield learner
    learner.close()
    inference.close()


def _head(dim: int, vectors: Tensor, targets: Sequence[str]) -> Head:
    head = new_head(dim)
    for start in range(0, len(vectors), PREFILL):
        enter(head, vectors[start:start + PREFILL], targets[start:start + PREFILL])
    head.solve()
    return head


def new_head(dim: int, kind: Kind = ONE_LABEL) -> Head:
    """Return an empty head as `adaptd init` configures it."""
    settings = Learn()
    options = HeadOptions(dim=dim, features=settings.features, neighbours=MemorySettings().neighbours,
                          seed=settings.seed, kind=kind)
    return Head(options, RandomFeatures(dim, settings.features, settings.seed))


def enter(head: Head, vectors: Tensor, targets: Sequence[str]) -> None:
    """Learn rows, numbered on from those before; the ridge is not solved yet."""
    rows = range(head.memory.size, head.memory.size + len(vectors))
    head.enter(NewRows(ids=rows, events=rows, born=rows, targets=[head.class_of(target) for target in targets],
                       sources=["bench"] * len(rows), contents=[_content(r) for r in rows],
                       holdout=[False] * len(rows), vectors=vectors))


def entry(event: int, target: str) -> Learned:
    """Return what the journal says of an event with its label."""
    row = Row(id=event, event=event, part=0, head="label", target=target, born=event, source="bench",
              content=_content(event), holdout=False)
    return Learned(seq=event, domain=1, born=[row])


def _content(event: int) -> bytes:
    return np.int64(event).tobytes()
