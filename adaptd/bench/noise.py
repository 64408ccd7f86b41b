"""Label noise: five sources teach in turns, and a fifth of what one of them says is wrong, at random.

The training split comes once in random order, the test split is asked at the end, through a daemon each without and with
the noise; the peers learn the same labels and are told of no source. What the daemon says of its sources is in its `problems`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptd.bench.apart import Apart
from adaptd.bench.class_incremental import DEFAULT_PEERS, prepare
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import QUICK_EVENTS, QUICK_TESTS, Run, Tools, estimate_s
from adaptd.bench.sets import Rows
from adaptd.bench.streams import BATCH, Ints, blocks, noisy, percent

SOURCES, SHARE = 5, 0.2
NAMED = "quarantine"


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    train, test, _ = prepare(run)
    return 2 * estimate_s(len(train), len(test), adapt=run.adapt)


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Teach with and without noise."""
    train, test, stream = prepare(run)
    rows = np.random.RandomState(run.seed).permutation(np.flatnonzero(stream.train < len(stream.classes)))
    rows = rows[:QUICK_EVENTS] if run.quick else rows
    asked = np.flatnonzero(stream.test < len(stream.classes))[::QUICK_TESTS if run.quick else 1]
    clean: Ints = stream.train[rows]
    wrong = noisy(clean, len(stream.classes), run.seed, SOURCES, SHARE)
    accuracy: dict[str, list[float]] = {}
    named: list[str] = []
    cpu_s = {"adaptd": 0.0}
    for labels in (clean, wrong):
        right, named, spent = _daemon(run, tools, train, test, rows, [stream.classes[c] for c in labels], asked)
        accuracy.setdefault("adaptd", []).append(right)
        cpu_s["adaptd"] += spent
    with tools.task(f"{run.name}: encoding for the peers", len(train) + len(test)) as advance:
        inputs, tests = tools.encoded.inputs(train.texts, advance), tools.encoded.inputs(test.texts, advance)
    for name in run.peers or DEFAULT_PEERS:
        cpu_s[name] = 0.0
        for labels in (clean, wrong):
            with Apart(name) as peer:
                for batch in blocks(np.arange(len(rows)), BATCH):
                    peer.learn(inputs.take(rows[batch]), labels[batch])
                peer.refit()
                accuracy.setdefault(name, []).append(percent(peer.predict(tests.take(asked)) == stream.test[asked]))
                cpu_s[name] += peer.cpu_s
    return {"rows": [{"method": name, "clean": one, "noisy": other, "lost": one - other,
                      "named": ", ".join(named) if name == "adaptd" else None, "cpu_s": cpu_s[name]}
                     for name, (one, other) in accuracy.items()]}


def _daemon(run: Run, tools: Tools, train: Rows, test: Rows, rows: Ints, labels: Sequence[str],
            asked: Ints) -> tuple[float, list[str], float]:
    """Return the accuracy in percent, the sources that were named in problems, and the CPU seconds."""
    with Daemon(adapt=run.adapt) as daemon, tools.task(f"{run.name}: adaptd", len(rows) + len(asked)) as advance:
        for batch in blocks(np.arange(len(rows)), BATCH):
            daemon.learn([train.texts[i] for i in rows[batch]], [labels[i] for i in batch],
                         sources=[f"s{i % SOURCES}" for i in batch])
            daemon.pause_for_adaptation()
            advance(len(batch))
        daemon.settle()
        right = percent(daemon.right([test.texts[i] for i in asked], [test.labels[i] for i in asked]))
        advance(len(asked))
        problems = daemon.main.call("GET", "/v1/status")["problems"]
        named = [f"s{number}" for number in range(SOURCES)
                 if any(one["code"] == NAMED and f"source 's{number}'" in one["message"] for one in problems)]
    return right, named, daemon.cpu_s
