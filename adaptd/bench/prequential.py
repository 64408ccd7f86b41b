"""Every event is answered, then its label comes back as feedback: in time order, or with labels that change half-way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from adaptd.bench.apart import Apart
from adaptd.bench.daemon import TEXTS, Daemon
from adaptd.bench.plan import QUICK_EVENTS, Run, Tools, estimate_s
from adaptd.bench.sets import Rows, Setting
from adaptd.bench.streams import Bools, Ints, behind, blocks, class_incremental, label_drift, moving, no_change, over_time

TIMED_BLOCK, SWAP_BLOCK, SWAP_EVENTS = 20, 10, 15_000
DEFAULT_PEERS = ("cron", "nearest-mean", "nearest-neighbours", "streaming-lda")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Texts with labels in the order in which they come, and what is counted."""

    texts: Sequence[Any]
    labels: Sequence[str]
    block: int  # events answered before their labels come
    figures: Callable[[Bools], dict[str, float]]
    mark: int | None = None  # event at which labels change
    setting: Setting = TEXTS


def prepare(run: Run) -> Stream:
    """Return the stream: by time where the set has times, else with labels that change."""
    data = run.load()
    if data.timed:
        rows = data.in_time()
        before = max(0, len(rows) - (run.events or len(rows)))
        rows = Rows(rows.texts[before:], rows.labels[before:])
        if run.quick:
            rows = rows.head(QUICK_EVENTS)
        changes = [at - before for at in data.changes if before < at < before + len(rows)]
        figures = partial(behind, changes=changes) if changes else over_time
        return Stream(texts=rows.texts, labels=rows.labels, block=data.setting.block or TIMED_BLOCK, figures=figures,
                      setting=data.setting)
    return _drifting(data.split("train"), run, data.per)


def _drifting(train: Rows, run: Run, per: int) -> Stream:
    classes = class_incremental(train.labels, [], per=per, seed=run.seed)
    drift = label_drift(classes, run.seed, QUICK_EVENTS if run.quick else SWAP_EVENTS, run.drift)
    return Stream(texts=[train.texts[i] for i in drift.rows], labels=drift.labels, block=SWAP_BLOCK, figures=drift.figures,
                  mark=drift.begins)


def expected_s(run: Run) -> float:
    """Say how long it takes; cron's refits are most of it."""
    n = len(prepare(run).texts)
    refits = n * n / 500 / 1000 * 1.5 if "cron" in (run.peers or DEFAULT_PEERS) else 0.0
    return estimate_s(n, n // 2, adapt=run.adapt) + refits


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Run the stream through the daemon and through the peers."""
    stream = prepare(run)
    ours, facts = _daemon(run, tools, stream)
    answers, cpu_s = _peers(run, tools, stream)
    right = {"adaptd": ours, **answers, "no-change": no_change(stream.labels)}
    cpu_s |= {"adaptd": facts.pop("cpu_s"), "no-change": 0.0}
    window = max(20, min(1000, len(stream.texts) // 20))
    return {"rows": [{"method": name, **stream.figures(one), "cpu_s": cpu_s[name]} for name, one in right.items()],
            "curves": {name: moving(one, window) for name, one in right.items()}, "axis": "event",
            "mark": stream.mark, **facts}


def _daemon(run: Run, tools: Tools, stream: Stream) -> tuple[Bools, dict[str, Any]]:
    right = np.zeros(len(stream.texts), dtype=bool)
    with Daemon(adapt=run.adapt, setting=stream.setting) as daemon, tools.task(f"{run.name}: adaptd", len(right)) as advance:
        for block in blocks(np.arange(len(right)), stream.block):
            answers, truth = daemon.predict([stream.texts[i] for i in block]), [stream.labels[i] for i in block]
            right[block] = [label == true for (_, label), true in zip(answers, truth, strict=True)]
            daemon.feedback([event for event, _ in answers], truth)
            daemon.pause_for_adaptation()
            advance(len(block))
        facts = {"verdicts": daemon.verdicts(), "settings": dict(daemon.settings)}
    return right, {**facts, "cpu_s": daemon.cpu_s, "peak_mb": daemon.peak_mb}


def _peers(run: Run, tools: Tools, stream: Stream) -> tuple[dict[str, Bools], dict[str, float]]:
    names = run.peers or stream.setting.peers or (*DEFAULT_PEERS, "naive-bayes")
    truth: Ints = np.unique(np.asarray(stream.labels), return_inverse=True)[1].astype(np.int64)
    with tools.task(f"{run.name}: encoding for the peers", len(truth)) as advance:
        inputs = tools.encoded.of(stream.setting).inputs(stream.texts, advance)
    right, cpu_s = {}, {}
    with tools.task(f"{run.name}: peers", len(names) * len(truth)) as advance:
        for name in names:
            right[name] = np.zeros(len(truth), dtype=bool)
            with Apart(name, len(truth)) as peer:
                for block in blocks(np.arange(len(truth)), stream.block):
                    rows = inputs.take(block)
                    right[name][block] = peer.predict(rows) == truth[block]
                    peer.learn(rows, truth[block])
                    advance(len(block))
                cpu_s[name] = peer.cpu_s
    return right, cpu_s
