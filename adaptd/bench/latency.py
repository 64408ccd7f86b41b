"""Latency: what an answer and a label cost over HTTP, beside the bare encoder on the same payloads, for whatever a set is of."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import Run, Tools
from adaptd.bench.speed import BLOCK, PLACES, milliseconds
from adaptd.bench.streams import BATCH, blocks
from adaptd.records import Example

BEFORE, TURNS, QUICK_TURNS = 500, 8, 2  # rows learned before; blocks of each kind, and the least of them
LIMIT_S = 240.0  # behind which no further turn begins: encoding images takes long
Ints = Sequence[int]


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    return 120.0


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Ask and teach in turns with the bare encoder; medians over all turns but the first, which warms up."""
    data = run.load()
    rows = data.split("train") if "train" in data.splits else data.in_time()
    order = np.random.RandomState(0).permutation(len(rows)).tolist()
    examples = [data.setting.example(rows.texts[i]) for i in order]
    encoder, turns = tools.encoded.of(data.setting).encoder, QUICK_TURNS if run.quick else TURNS
    took: dict[str, list[float]] = {what: [] for what in ("asked", "bare, one", "taught", "bare, a batch")}
    before = min(BEFORE, len(rows) // 2)
    behind = np.resize(order[before:], (turns + 1) * (BLOCK + 2 * BATCH)).tolist()
    with Daemon(adapt=False, setting=data.setting) as daemon, tools.task(run.name, turns + 1) as step:
        def learn(some: Ints) -> None:
            daemon.learn([rows.texts[i] for i in some], [rows.labels[i] for i in some])

        for block in blocks(np.array(order[:before]), 100):
            learn(block.tolist())
        daemon.snapshot("the ridge solved")
        at, limit = {row: place for place, row in enumerate(order)}, time.monotonic() + LIMIT_S
        for turn in range(turns + 1):
            if turn > QUICK_TURNS and time.monotonic() > limit:
                break
            mine, behind = behind[:BLOCK + 2 * BATCH], behind[BLOCK + 2 * BATCH:]
            asked, taught = mine[:BLOCK], (mine[BLOCK:BLOCK + BATCH], mine[BLOCK + BATCH:])
            found = {"asked": [milliseconds(partial(daemon.predict, [rows.texts[i]])) for i in asked],
                     "bare, one": _bare(encoder, [[examples[at[i]]] for i in asked]),
                     "taught": [milliseconds(partial(learn, some)) / BATCH for some in taught],
                     "bare, a batch": [ms / BATCH for ms in _bare(encoder, [[examples[at[i]] for i in some] for some in taught])]}
            for what, ms in found.items():
                took[what] += ms if turn else []
            step(1)
    median = {what: float(np.median(ms)) for what, ms in took.items()}
    said = (("an answer", "asked", "bare, one", "× encoding one"),
            ("a label, learned", "taught", "bare, a batch", "× encoding one of 15"))
    return {"rows": [{"what": what, "value": median[ours] / median[bare], "unit": unit, "budget": None,
                      "absolute": {"ms": median[ours], "bare_ms": median[bare]}} for what, ours, bare, unit in said]}


def _bare(encoder: Any, batches: Sequence[Sequence[Example]]) -> list[float]:
    """Return the milliseconds of each batch, where the encoder is faster of the two places that it may be called from."""
    found = [run_in(lambda: [milliseconds(partial(encoder.encode, batch)) for batch in batches]) for run_in in PLACES]
    return min(found, key=np.median)
