"""Speed and size, each as a ratio to something of the same run: absolute times are noise on shared machines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from adaptd.bench import footprint, learning_cost, restart
from adaptd.bench.daemon import Daemon, answered
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Rows
from adaptd.model.encoder import Transformers
from adaptd.records import Example

BLOCK = 25  # calls of one kind before it is the other's turn
SAID: dict[str, tuple[str, float | None]] = {  # what is measured -> (unit, the budget; None = told, not judged)
    "predict one": ("× bare encoder, medians", 1.3), "predict one, p99": ("× bare encoder, p99", None),
    "throughput, 32 clients, one input each": ("× bare encoder, best batch", 0.9),
    "throughput, 4 clients, 64 inputs each": ("× bare encoder, best batch", 0.9),
    "p99 while adapting": ("× p99 when idle", 2.0), "rollback": ("s, the slowest", 1.0),
    "failed requests during rollbacks": ("", 0.0),
    restart.WHAT: ("s more than the encoder's load", 2.0), "--help": ("× import click", 3.0), "status": ("× import click", 6.0)}


@dataclass(frozen=True)
class Sizes:
    """How much of each is measured."""

    calls: int
    batch: int  # texts for throughput
    memories: int
    learned_before: Sequence[int]
    examples: int
    starts: int


def sizes(run: Run) -> Sizes:
    """Return the sizes of a run."""
    if run.quick:
        return Sizes(calls=50, batch=256, memories=300, learned_before=(1_000,), examples=256, starts=2)
    return Sizes(calls=400, batch=2048, memories=run.memories, learned_before=learning_cost.LEARNED_BEFORE,
                 examples=learning_cost.MEASURED, starts=15)


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    size = sizes(run)
    return size.memories * 0.010 + sum(size.learned_before) * 0.002 + size.examples * 0.03 + size.batch * 0.02 + 120.0


def measure(run: Run, tools: Tools) -> dict[str, Any]:
    """Measure everything; the daemon has learned `memories` examples before."""
    data, size = run.load(), sizes(run)
    train, test = data.split("train"), data.split("test")
    encoder, rows = tools.encoded.encoder, []
    with tools.task(f"{run.name}", 9) as step, Daemon(adapt=False) as daemon:
        fresh_mb = footprint.resident_mb(daemon.pid)
        _learn(daemon, train, size.memories)
        step(1)
        sizes_found = footprint.measure(daemon, fresh_mb)
        rows += _one_at_a_time(daemon, encoder, test, size.calls)
        step(1)
        rows += _many_clients(daemon, encoder, test, size.batch)
        step(1)
        rows += _while_adapting(daemon, test, size.calls)
        step(1)
        rows += _rollback(daemon, train, test)
        step(1)
        rows += _starts(daemon, size.starts)
        step(1)
        rows.append(_row(restart.WHAT, **restart.measure(daemon)))
        step(1)
        encode_ms = _encode_ms(encoder, test.texts)
        step(1)
        costs = _learning(run, tools, train, encode_ms, size)
        step(1)
    return {"rows": rows + sizes_found + costs, "threads": torch.get_num_threads(), "memories": size.memories,
            "encode ms, batched": encode_ms, "settings": dict(daemon.settings)}


def _row(what: str, value: float, **absolute: Any) -> dict[str, Any]:
    unit, budget = SAID.get(what, ("", None))
    return {"what": what, "value": value, "unit": unit, "budget": budget, "absolute": absolute}


def _learn(daemon: Daemon, train: Rows, count: int) -> None:
    """Teach rows spread over all classes, again from the front where there are not enough."""
    order = np.random.RandomState(0).permutation(len(train))
    rows = np.resize(order, count)
    for start in range(0, count, 250):
        chunk = rows[start:start + 250]
        daemon.learn([train.texts[i] for i in chunk], [train.labels[i] for i in chunk])
    daemon.snapshot("the ridge solved")


# -- predictions -------------------------------------------------------------------------------------------------


def _one_at_a_time(daemon: Daemon, encoder: Transformers, test: Rows, calls: int) -> list[dict[str, Any]]:
    """Alternate blocks of calls: the same texts, one at a time, bare and over HTTP."""
    served: list[float] = []
    bare: list[list[float]] = []
    for run_in in PLACES:
        bare.append([])
        for start in range(0, calls // 2 + BLOCK, BLOCK):
            texts = [test.texts[i % len(test)] for i in range(start, start + BLOCK)]
            ours = [milliseconds(partial(daemon.main.predict, [text])) for text in texts]
            base = run_in(partial(_bare, encoder, texts))
            if start:  # the first block warms both up
                served, bare[-1] = served + ours, bare[-1] + base
    best = min(bare, key=np.median)
    medians, tails = (np.median(served), np.median(best)), (np.percentile(served, 99), np.percentile(best, 99))
    return [_row("predict one", medians[0] / medians[1], served_ms=medians[0], bare_ms=medians[1], calls=len(served)),
            _row("predict one, p99", tails[0] / tails[1], served_ms=tails[0], bare_ms=tails[1])]


def _bare(encoder: Transformers, texts: Sequence[str]) -> list[float]:
    """Encode texts one at a time; return the milliseconds of each."""
    return [milliseconds(partial(encoder.encode, [Example(text=text)])) for text in texts]


def _many_clients(daemon: Daemon, encoder: Transformers, test: Rows, count: int) -> list[dict[str, Any]]:
    """Compare throughput with the encoder's best over batch sizes. The clients' own work runs on the same cores."""
    texts = [test.texts[i % len(test)] for i in range(count)]
    best = max(_per_second(count, partial(run_in, partial(_encode, encoder, texts, size)))
               for run_in in PLACES for size in (32, 64, 256))
    rows = []
    for clients, inputs in ((32, 1), (4, 64)):
        done = _per_second(count, partial(_crowd, daemon, texts, clients, inputs))
        what = f"throughput, {clients} clients, " + ("one input each" if inputs == 1 else f"{inputs} inputs each")
        rows.append(_row(what, done / best, served_per_s=done, bare_per_s=best))
    return rows


def _encode(encoder: Transformers, texts: Sequence[str], size: int) -> None:
    for start in range(0, len(texts), size):
        encoder.encode([Example(text=text) for text in texts[start:start + size]])


def _crowd(daemon: Daemon, texts: Sequence[str], clients: int, inputs: int) -> None:
    """Let clients ask for all texts; an error of any is raised."""
    errors: list[BaseException] = []

    def ask(mine: Sequence[str]) -> None:
        connection = daemon.connect()
        try:
            for start in range(0, len(mine), inputs):
                answered(connection, mine[start:start + inputs])
        except Exception as error:  # raised again by the caller
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(texts[c::clients],)) for c in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _while_adapting(daemon: Daemon, test: Rows, calls: int) -> list[dict[str, Any]]:
    """Compare p99 when idle and while a candidate is trained and judged."""
    idle = [milliseconds(partial(daemon.main.predict, [test.texts[i % len(test)]])) for i in range(calls)]
    daemon.main.call("POST", "/v1/text/adapt", {"wait": False})
    busy: list[float] = []
    while not busy or daemon.state()["adapting"] is not None:
        busy += [milliseconds(partial(daemon.main.predict, [test.texts[i % len(test)]])) for i in range(BLOCK)]
    tails = np.percentile(busy, 99), np.percentile(idle, 99)
    verdict = daemon.state()["last_verdict"] or {}
    return [_row("p99 while adapting", tails[0] / tails[1], adapting_ms=tails[0], idle_ms=tails[1], calls=len(busy),
                 verdict=verdict.get("verdict"), reasons=verdict.get("reasons"))]


# -- rollback, starts --------------------------------------------------------------------------------------------


def _rollback(daemon: Daemon, train: Rows, test: Rows) -> list[dict[str, Any]]:
    """Go back over learned labels, forward again, to the empty first version and back, while a client asks."""
    here = daemon.snapshot("before")
    daemon.learn(train.texts[:100], train.labels[:100])
    took: dict[str, float] = {}
    with _asking(daemon, test) as failed:
        saved = here
        for what, target in (("back", here), ("forward", None), ("to the first version", 1), ("and back", None)):
            began = time.perf_counter()
            saved = daemon.rollback(target or saved)  # None: to what was live before
            took[what] = time.perf_counter() - began
    daemon.resume()
    return [_row("rollback", max(took.values()), **{f"{what}, s": s for what, s in took.items()}),
            _row("failed requests during rollbacks", float(len(failed)), errors=[str(error) for error in failed[:3]])]


@contextmanager
def _asking(daemon: Daemon, test: Rows) -> Iterator[list[BaseException]]:
    """Let a client ask all the while; yield what failed."""
    failed: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        connection = daemon.connect()
        while not stop.is_set():
            try:
                answered(connection, test.texts[:1])
            except Exception as error:  # counted: it is the result
                failed.append(error)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failed
    finally:
        stop.set()
        thread.join()


def _starts(daemon: Daemon, times: int) -> list[dict[str, Any]]:
    """Compare the command line's start with that of click alone, in turns."""
    commands = {"import click": ["-c", "import click"], "--help": ["-m", "adaptd", "--help"],
                "status": ["-m", "adaptd", "status", "--config", str(daemon.store)]}
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(times):
        for name, arguments in commands.items():
            command = [sys.executable, *arguments]
            took[name].append(milliseconds(partial(subprocess.run, command, check=True, capture_output=True)))
    median = {name: float(np.median(ms)) for name, ms in took.items()}
    return [_row(name, median[name] / median["import click"], ms=median[name], click_ms=median["import click"])
            for name in ("--help", "status")]


# -- learning ----------------------------------------------------------------------------------------------------


def _learning(run: Run, tools: Tools, train: Rows, encode_ms: float, size: Sizes) -> list[dict[str, Any]]:
    """Compare learning one example with encoding one."""
    with tools.task(f"{run.name}: encoding", len(train)) as advance:
        vectors = torch.from_numpy(tools.encoded.layers(train.texts, advance))
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(train)))
    labels, rows = [train.labels[i] for i in order.tolist()], []
    for before in size.learned_before:
        cost = learning_cost.measure(vectors[order], labels, len(tools.encoded.encoder.layers), before, size.examples)
        what = f"learn one, {before:,} learned before"
        rows.append({**_row(what, cost["ms"] / encode_ms, **cost, encode_ms=encode_ms), "budget": 1.0,
                     "unit": "× encoding one, batched"})
    return rows


def _encode_ms(encoder: Transformers, texts: Sequence[str]) -> float:
    """Return the cost of encoding one example in batches of 64, the median of three rounds."""
    texts = texts[:512]
    call = partial(_encode, encoder, texts, 64)
    return min(float(np.median([milliseconds(partial(run_in, call)) for _ in range(3)])) for run_in in PLACES) / len(texts)


def _here(call: Callable[[], Any]) -> Any:
    return call()


def _aside(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as side:
        return side.submit(call).result()


# OpenMP's threads spin where the main thread calls, and sleep where the process has more pools than cores, as the
# daemon has. Which is faster depends on what else runs: the bare encoder is measured both ways, the better one counts.
PLACES: Sequence[Callable[[Callable[[], Any]], Any]] = (_here, _aside)


def milliseconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def _per_second(count: int, call: Callable[[], Any]) -> float:
    return 1000 * count / milliseconds(call)
