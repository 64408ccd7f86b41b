"""Classes come in groups, each example once, no task id; tested on all classes seen, through the daemon."""

from __future__ import annotations

from typing import Any

import numpy as np

from adaptd.bench.apart import Apart
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import QUICK_EXPERIENCES, QUICK_ROWS, QUICK_TESTS, Run, Tools, estimate_s
from adaptd.bench.sets import Rows
from adaptd.bench.streams import BATCH, Accuracies, ClassIncremental, Ints, blocks, class_incremental

DEFAULT_PEERS = ("cron", "nearest-mean", "nearest-neighbours", "streaming-lda")


def prepare(run: Run) -> tuple[Rows, Rows, ClassIncremental]:
    """Return training rows, test rows and the stream over them."""
    data = run.load()
    train, test = data.split("train"), data.split("test")
    stream = class_incremental(train.labels, test.labels, per=data.per, seed=run.seed)
    return train, test, shortened(stream) if run.quick else stream


def shortened(stream: ClassIncremental) -> ClassIncremental:
    """Return three experiences with few rows, and a fifth of the tests: to see that all works."""
    keep = QUICK_EXPERIENCES * stream.per
    experiences = []
    for rows in stream.experiences[:QUICK_EXPERIENCES]:
        place = np.zeros(len(rows), dtype=np.int64)
        for c in np.unique(stream.train[rows]):
            mine = stream.train[rows] == c
            place[mine] = np.arange(mine.sum())
        experiences.append(rows[place < QUICK_ROWS])
    test = np.where(np.arange(len(stream.test)) % QUICK_TESTS == 0, stream.test, len(stream.classes))
    return ClassIncremental(classes=stream.classes[:keep], per=stream.per, train=stream.train,
                            test=np.where(test < keep, test, keep), experiences=tuple(experiences))


def tested(run: Run, stream: ClassIncremental) -> dict[int, list[int]]:
    """Return which experiences are tested after which."""
    last = len(stream.experiences) - 1
    if run.last_only:
        return {0: [0], last: list(range(last + 1))}
    return {e: list(range(e + 1)) for e in range(last + 1)}


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    _, _, stream = prepare(run)
    return estimate_s(sum(map(len, stream.experiences)), _asked(run, stream), adapt=run.adapt)


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Run the stream through the daemon and through the peers."""
    train, test, stream = prepare(run)
    ours, facts = _daemon(run, tools, train, test, stream)
    accuracies = {"adaptd": ours, **(peers := _peers(run, tools, train, test, stream))[0]}
    cpu_s = {"adaptd": facts.pop("cpu_s"), **peers[1]}
    rows = [{"method": name, **one.figures(), "cpu_s": cpu_s[name]} for name, one in accuracies.items()]
    return {"rows": rows, "axis": "experience",
            "curves": {name: list(enumerate(one.curve, 1)) for name, one in accuracies.items()},
            "matrices": {name: (100 * one.matrix).tolist() for name, one in accuracies.items()}, **facts}


def _asked(run: Run, stream: ClassIncremental) -> int:
    """Count the test rows asked for, again and again."""
    return sum(len(stream.tests(j)) for experiences in tested(run, stream).values() for j in experiences)


def _daemon(run: Run, tools: Tools, train: Rows, test: Rows,
            stream: ClassIncremental) -> tuple[Accuracies, dict[str, Any]]:
    accuracies = empty(stream)
    steps = sum(map(len, stream.experiences)) + _asked(run, stream)
    with Daemon(adapt=run.adapt, setting=run.load().setting) as daemon, tools.task(f"{run.name}: adaptd", steps) as advance:
        for e, rows in enumerate(stream.experiences):
            for batch in blocks(rows, BATCH):
                daemon.learn([train.texts[i] for i in batch], [train.labels[i] for i in batch])
                daemon.pause_for_adaptation()
                advance(len(batch))
            daemon.settle()
            for j in tested(run, stream).get(e, ()):
                asked = stream.tests(j)
                accuracies.record(e, j, daemon.right([test.texts[i] for i in asked], [test.labels[i] for i in asked]))
                advance(len(asked))
        facts: dict[str, Any] = {}
        if run.consolidate:
            facts["unconsolidated"] = accuracies.figures()
            daemon.consolidate()
            last = len(stream.experiences) - 1
            for j in tested(run, stream)[last]:
                asked = stream.tests(j)
                accuracies.record(last, j, daemon.right([test.texts[i] for i in asked], [test.labels[i] for i in asked]))
        facts |= {"verdicts": daemon.verdicts(), "settings": dict(daemon.settings)}
    return accuracies, {**facts, "cpu_s": daemon.cpu_s, "peak_mb": daemon.peak_mb}


def _peers(run: Run, tools: Tools, train: Rows, test: Rows,
           stream: ClassIncremental) -> tuple[dict[str, Accuracies], dict[str, float]]:
    setting = run.load().setting
    names = run.peers or setting.peers or DEFAULT_PEERS
    encoded = tools.encoded.of(setting)
    used: Ints = np.concatenate(stream.experiences)
    with tools.task(f"{run.name}: encoding for the peers", len(train) + len(test)) as advance:
        inputs, tests = encoded.inputs(train.texts, advance), encoded.inputs(test.texts, advance)
    accuracies, cpu_s = {}, {}
    with tools.task(f"{run.name}: peers", len(names) * len(used)) as advance:
        for name in names:
            accuracies[name] = empty(stream)
            with Apart(name) as peer:
                for e, rows in enumerate(stream.experiences):
                    for batch in blocks(rows, BATCH):
                        peer.learn(inputs.take(batch), stream.train[batch])
                    peer.refit()
                    for j in tested(run, stream).get(e, ()):
                        asked = stream.tests(j)
                        accuracies[name].record(e, j, peer.predict(tests.take(asked)) == stream.test[asked])
                    advance(len(rows))
                cpu_s[name] = peer.cpu_s
    return accuracies, cpu_s


def empty(stream: ClassIncremental) -> Accuracies:
    """Return accuracies by experience, none measured yet."""
    return Accuracies([len(stream.tests(j)) for j in range(len(stream.experiences))])
