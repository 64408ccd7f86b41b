"""A brand-new class among all: the last experience's classes together, n random examples of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptd.bench import class_incremental
from adaptd.bench.apart import Apart
from adaptd.bench.daemon import Daemon
from adaptd.bench.peers import Inputs
from adaptd.bench.plan import Run, Tools, estimate_s
from adaptd.bench.sets import Rows
from adaptd.bench.streams import BATCH, FEW, Bools, ClassIncremental, Ints, blocks, few_shots, percent

DEFAULT_PEERS = ("nearest-mean", "nearest-neighbours", "streaming-lda")
FACTS = ("new", "old", "old lost")


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    _, _, stream = class_incremental.prepare(run)
    tests = len(stream.tests_until(len(stream.experiences) - 1))
    return estimate_s(sum(map(len, stream.experiences[:-1])), (2 + len(FEW)) * tests, adapt=run.adapt)


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Learn all but the last experience; from there, each time anew, a few examples of its classes."""
    train, test, stream = class_incremental.prepare(run)
    rows, facts = _daemon(run, tools, train, test, stream)
    return {"rows": rows + _peers(run, tools, train, test, stream), **facts}


def _daemon(run: Run, tools: Tools, train: Rows, test: Rows,
            stream: ClassIncremental) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    asked = stream.tests_until(len(stream.experiences) - 1)
    base: Ints = np.concatenate(stream.experiences[:-1])

    def right() -> Bools:
        daemon.settle()
        found = daemon.right([test.texts[i] for i in asked], [test.labels[i] for i in asked])
        advance(len(asked))
        return found

    rows, steps = [], len(base) + (2 + len(FEW)) * len(asked)
    with Daemon(adapt=run.adapt) as daemon, tools.task(f"{run.name}: adaptd", steps) as advance:
        for batch in blocks(base, BATCH):
            daemon.learn([train.texts[i] for i in batch], [train.labels[i] for i in batch])
            daemon.pause_for_adaptation()
            advance(len(batch))
        before, here = right(), daemon.snapshot("all but the last experience")
        for n, few in few_shots(stream, run.seed).items():
            for batch in blocks(few, BATCH):
                daemon.learn([train.texts[i] for i in batch], [train.labels[i] for i in batch])
            rows.append(_row("adaptd", n, stream, asked, before, right()))
            daemon.rollback(here)
            daemon.resume()
        facts = {"verdicts": daemon.verdicts(), "settings": dict(daemon.settings),
                 "as right after rollbacks as before, %": percent(right() == before)}
    return rows, {**facts, "cpu_s": daemon.cpu_s, "peak_mb": daemon.peak_mb}


def _peers(run: Run, tools: Tools, train: Rows, test: Rows, stream: ClassIncremental) -> list[dict[str, Any]]:
    names = run.peers or DEFAULT_PEERS
    asked = stream.tests_until(len(stream.experiences) - 1)
    base: Ints = np.concatenate(stream.experiences[:-1])
    with tools.task(f"{run.name}: encoding for the peers", len(train) + len(test)) as advance:
        inputs = tools.encoded.inputs(train.texts, advance)
        tests = tools.encoded.inputs(test.texts, advance).take(asked)
    truth, rows = stream.test[asked], []
    with tools.task(f"{run.name}: peers", len(names) * (1 + len(FEW))) as advance:
        for name in names:
            before = _answers(name, inputs, stream, base, tests) == truth
            advance(1)
            for n, few in few_shots(stream, run.seed).items():
                after = _answers(name, inputs, stream, np.concatenate([base, few]), tests) == truth
                rows.append(_row(name, n, stream, asked, before, after))
                advance(1)
    return rows


def _answers(name: str, inputs: Inputs, stream: ClassIncremental, rows: Ints, tests: Inputs) -> Ints:
    with Apart(name) as peer:
        for batch in blocks(rows, 512):
            peer.learn(inputs.take(batch), stream.train[batch])
        peer.refit()
        return peer.predict(tests)


def _row(method: str, n: int, stream: ClassIncremental, asked: Ints, before: Bools, after: Bools) -> dict[str, Any]:
    new = stream.test[asked] // stream.per == len(stream.experiences) - 1
    figures = (percent(after[new]), percent(after[~new]), percent(before[~new]) - percent(after[~new]))
    return {"method": method, "examples": n, **dict(zip(FACTS, figures, strict=True))}
