"""Soak: mixed load for as long as is asked, with adaptations and rollbacks; what fails, and what grows that should not.

Clients predict, teach, correct, explain and ask for the status, each at its own pace, over connections that are kept; a
conductor takes snapshots, adapts, goes back and resumes. The memory is bounded, so that what is remembered has a limit; what
grows beside the arrays of the exemplars is told per hour, by a slope that single samples do not move (Theil and Sen's).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Rows
from adaptd.client import Client
from adaptd.errors import AdaptdError

Json = dict[str, Any]
CLIENTS, PAUSE_S = 6, 0.2  # the mean pause of a client between two requests
CAPACITY, TAUGHT = 1_000, 3_000  # taught before: from 1,024 rows on the sums have their full size
BOUNDED = {"ADAPTD_DOMAINS__TEXT__MEMORY__CAPACITY": str(CAPACITY)}
SAMPLES, BLOCKS, ROUNDS = 240, 20, 6  # of a whole run
WARM_UP = 0.25  # of the run, in which caches fill: it is drawn and not fitted
SETTLE_S, FILL_S = 5.0, 20.0
IDLE, QUIET_S = 0.05, 300.0  # the share of a core that an idle daemon takes at most; how long it may take to become idle
POOL = 4  # threads that a pool may still start: it does when as many wait at once
WEIGHTS = {"predict": 50, "predict many": 10, "teach": 18, "correct": 8, "status": 6, "explain": 4, "search": 2, "history": 2}


@dataclass
class Load:
    """What the clients did so far; one lock for all."""

    took: list[tuple[float, str, float]] = field(default_factory=list)  # at, kind, ms
    refused: Counter[str] = field(default_factory=Counter)  # by kind and code
    failed: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, kind: str, ask: Callable[[], Any]) -> Any:
        """Ask; note how long it took, or why it was refused, or that it failed. None unless it was answered."""
        began = time.monotonic()
        try:
            answer = ask()
        except AdaptdError as error:
            with self.lock:
                if 400 <= error.status < 500 or error.status == 503:
                    self.refused[f"{kind}: {error.code}"] += 1
                else:
                    self.failed.append(f"{kind}: {error.code}: {error}")
            return None
        except Exception as error:  # counted: it is the result
            with self.lock:
                self.failed.append(f"{kind}: {error!r}")
            return None
        with self.lock:
            self.took.append((began, kind, 1000 * (time.monotonic() - began)))
        return answer


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    return _seconds(run) + 120.0


def _seconds(run: Run) -> float:
    return 20.0 if run.quick else 60.0 * run.minutes


def measure(run: Run, tools: Tools) -> Json:
    """Load a daemon; return the rows, the samples and what the settings were."""
    data, length = run.load(), _seconds(run)
    train, test = data.split("train"), data.split("test")
    daemon = Daemon(adapt=True)
    daemon.settings = BOUNDED
    with daemon, tools.task(run.name, SAMPLES) as step:
        order = np.random.RandomState(run.seed).permutation(len(train))[:TAUGHT]
        for part in np.array_split(order, 12):
            daemon.learn([train.texts[i] for i in part], [train.labels[i] for i in part])
        with _under(load := Load(), daemon, train, test, FILL_S, run.seed + CLIENTS):
            time.sleep(FILL_S)  # pools of threads fill once, and stay
        idle = _idle(daemon)
        began = time.monotonic()
        with _under(load := Load(), daemon, train, test, length / ROUNDS, run.seed):
            samples = _sampled(daemon, began, length, step)
        after = _idle(daemon)
    return {"rows": _rows(load, samples, idle, after, length), "samples": samples,
            "latency": _latency(load, began, length), "failed": load.failed[:20], "settings": dict(BOUNDED), "clients": CLIENTS}


# -- the load ----------------------------------------------------------------------------------------------------


@contextmanager
def _under(load: Load, daemon: Daemon, train: Rows, test: Rows, every_s: float, seed: int) -> Iterator[None]:
    """Let the clients and the conductor do their work meanwhile."""
    threads = [threading.Thread(target=_client, args=(daemon, load, train, test, seed + number)) for number in range(CLIENTS)]
    threads.append(threading.Thread(target=_conduct, args=(daemon, load, every_s)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()


def _connect(daemon: Daemon) -> Client:
    """Return a client that is told of every refusal: it does not try again by itself."""
    return Client(daemon.store / "adaptd.sock", timeout_s=120.0, patience_s=0.0).__enter__()


def _client(daemon: Daemon, load: Load, train: Rows, test: Rows, seed: int) -> None:
    rng, client = random.Random(seed), _connect(daemon)
    known: list[str] = []  # events that were answered and may be corrected
    while not load.stop.wait(rng.expovariate(1 / PAUSE_S)):
        kind = rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        answer = load.call(kind, lambda kind=kind: _ask(client, kind, rng, train, test, known))  # type: ignore[misc]
        if answer is not None and kind.startswith("predict"):
            known[:] = [*known, *(one["event"] for one in answer["predictions"])][-50:]
    client.close()


def _ask(client: Client, kind: str, rng: random.Random, train: Rows, test: Rows, known: Sequence[str]) -> Any:
    def some(rows: Rows, count: int) -> list[Json]:
        return [{"text": rows.texts[i], "label": rows.labels[i]} for i in rng.choices(range(len(rows)), k=count)]

    if kind.startswith("predict") or (kind in ("correct", "explain") and not known):
        inputs = [{"text": one["text"]} for one in some(test, 8 if kind == "predict many" else 1)]
        return client.call("POST", "/v1/text/predict", {"inputs": inputs})
    if kind == "teach":
        return client.call("POST", "/v1/text/events", some(train, rng.randint(1, 5)))
    if kind == "correct":
        return client.call("POST", "/v1/text/feedback", {"event": rng.choice(known), "label": rng.choice(train.labels)})
    if kind == "explain":
        return client.call("GET", f"/v1/text/explain/{rng.choice(known)}")
    if kind == "search":
        return client.call("POST", "/v1/text/memory/search", {"text": rng.choice(test.texts), "k": 5})
    return client.call("GET", "/v1/status" if kind == "status" else "/v1/history?limit=50")


def _conduct(daemon: Daemon, load: Load, every_s: float) -> None:
    client, number = _connect(daemon), 0
    while not load.stop.wait(every_s * 0.5):
        number += 1
        _round(client, load, number)
        load.stop.wait(every_s * 0.5)
    client.close()


def _round(client: Client, load: Load, number: int) -> None:
    """Name the state, adapt, go back to what was named, and learn again; back to the newest now and then."""
    here = load.call("snapshot", lambda: client.call("POST", "/v1/text/snapshot", {"reason": f"round {number}"}))
    load.call("adapt", lambda: client.call("POST", "/v1/text/adapt", {"wait": True}, timeout_s=3600.0))
    if here is not None:
        body = {"to": here["version"], "reason": f"round {number}", "and_replay": number % 2 == 1}
        load.call("rollback", lambda: client.call("POST", "/v1/text/rollback", body))
    load.call("resume", lambda: client.call("POST", "/v1/text/resume", {"what": "learning"}))


# -- what is looked at -------------------------------------------------------------------------------------------


def _sampled(daemon: Daemon, began: float, length: float, step: Callable[[int], None]) -> list[Json]:
    samples = []
    for number in range(SAMPLES):
        time.sleep(max(0.0, began + length * (number + 1) / SAMPLES - time.monotonic()))  # evenly; ends with the run
        samples.append(_sample(daemon, began))
        step(1)
    return samples


def _sample(daemon: Daemon, began: float) -> Json:
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    found = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)
             if name in ("VmRSS", "RssAnon", "Threads")}
    heads = daemon.main.call("GET", "/v1/text/memory")["heads"].values()
    return {"at_s": time.monotonic() - began, "rss_mb": found["VmRSS"] / 1024, "own_mb": found["RssAnon"] / 1024,
            "threads": found["Threads"], "descriptors": len(os.listdir(f"/proc/{daemon.pid}/fd")),
            "rows": sum(head["rows"] for head in heads), "exemplars_mb": sum(head["bytes"] for head in heads) / 2**20}


def _idle(daemon: Daemon) -> Json:
    """Return a sample of a daemon that nobody asks and that trains nothing."""
    daemon.settle()
    limit, used = time.monotonic() + QUIET_S, -1.0
    while (now := _cpu_s(daemon.pid)) - used > SETTLE_S * IDLE and time.monotonic() < limit:
        used = now
        time.sleep(SETTLE_S)  # sums that trail a rollback, threads that end: nothing else tells when
    return _sample(daemon, time.monotonic())


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slope(samples: Sequence[Json], what: str = "rss_mb") -> tuple[float, float, float]:
    """Return how much RAM grows beside the exemplars' arrays, in MiB an hour, with its 95 % interval.

    Fitted to medians of blocks, as one sample is much like the one before it.
    """
    kept = [(one["at_s"] / 3600, one[what] - one["exemplars_mb"]) for one in samples
            if one["at_s"] >= WARM_UP * samples[-1]["at_s"]]
    hours, mb = zip(*(np.median(block, axis=0) for block in np.array_split(np.array(kept), BLOCKS)), strict=True)
    fit = theilslopes(mb, hours)
    return float(fit.slope), float(fit.low_slope), float(fit.high_slope)


def _latency(load: Load, began: float, length: float) -> list[Json]:
    """Return the percentiles of single predictions, by twentieths of the run."""
    found = []
    for number in range(20):
        low, high = began + length * number / 20, began + length * (number + 1) / 20
        if ms := [ms for at, kind, ms in load.took if kind == "predict" and low <= at < high]:
            found.append({"at_s": high - began, "p50": np.percentile(ms, 50), "p99": np.percentile(ms, 99)})
    return found


def _rows(load: Load, samples: Sequence[Json], idle: Json, after: Json, length: float) -> list[Json]:
    def row(what: str, value: float, unit: str, budget: float | None, **absolute: Any) -> Json:
        return {"what": what, "value": value, "unit": unit, "budget": budget, "absolute": absolute}

    def growth(what: str, name: str) -> Json:
        middle, low, high = slope(samples, name)
        return row(what, middle, "MiB an hour", None, low=low, high=high, first=samples[0][name], last=samples[-1][name],
                   idle_before=idle[name], idle_after=after[name])

    kinds, learned = Counter(kind for _, kind, _ in load.took), samples[-1]["rows"] - samples[0]["rows"]
    one = [ms for _, kind, ms in load.took if kind == "predict"]
    return [row("requests", len(load.took), "answered", None, per_s=len(load.took) / length, **kinds),
            row("refused with a reason", load.refused.total(), "", None, **load.refused),
            row("failed", len(load.failed), "", 0),
            growth("RAM beside the exemplars", "rss_mb"),
            growth("the same, without mapped files", "own_mb"),
            row("learned meanwhile", learned, "rows", None),
            row("descriptors, idle after − before", after["descriptors"] - idle["descriptors"], "", 0,
                before=idle["descriptors"], most=max(s["descriptors"] for s in samples)),
            row("threads, idle after − before", after["threads"] - idle["threads"], "", POOL,
                before=idle["threads"], most=max(s["threads"] for s in samples)),
            row("predict one under all this, p99", float(np.percentile(one, 99)), "ms", None, p50=float(np.percentile(one, 50)),
                slowest=max(one))]


# -- the picture -------------------------------------------------------------------------------------------------


def picture(result: Json, file: Path) -> Path:
    """Draw RAM, descriptors and threads, and latency over the run."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained")
    minutes = [one["at_s"] / 60 for one in result["samples"]]
    for name in ("rss_mb", "own_mb", "exemplars_mb"):
        panels[0].plot(minutes, [one[name] for one in result["samples"]], label=name.replace("_mb", ", MiB"))
    for name in ("descriptors", "threads"):
        panels[1].plot(minutes, [one[name] for one in result["samples"]], label=name)
    for name in ("p50", "p99"):
        panels[2].plot([one["at_s"] / 60 for one in result["latency"]], [one[name] for one in result["latency"]],
                       label=f"predict one, {name}, ms")
    for axes in panels:
        axes.set(ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    panels[0].set(title=result["name"])
    panels[2].set(xlabel="minutes")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file
