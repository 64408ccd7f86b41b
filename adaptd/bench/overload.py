"""Overload: ten times the predictions that a daemon can answer, for a minute; what it takes is answered soon, the rest refused.

Capacity is what clients get that ask one text after the other and keep it just busy; their p99 is the normal one. Then many
more ask on a timetable, ten times as much in all, however they are answered. Beside them one client teaches and one asks for
the status: neither may be starved. Afterwards everything that was taught is sent again: what is no duplicate was lost.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Rows
from adaptd.bench.streams import Ints

Json = dict[str, Any]
NORMAL, FLOODING = 16, 64  # clients that keep it just busy, and that flood it
TIMES, TAUGHT = 10, 1_000
NORMAL_S, FLOOD_S, QUICK_S = 20.0, 60.0, 5.0
BESIDE_S = 0.2  # between two lessons, and two looks at the status, of one client
BUDGET, RECOVERY_S, IN_A_ROW = 3.0, 5.0, 10
REFUSED = (429, 503)


class Line:
    """A connection that costs little: clients share the cores with the daemon, and are not what is measured."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def exchange(self, method: str, path: str, body: Any = None) -> int:
        """Send a request of HTTP/1.1; return the status, the answer read."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: adaptd\r\nContent-Type: application/json\r\n"
        self._socket.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self._more()
        answer, _, rest = got.partition(b"\r\n\r\n")
        left = int(answer.lower().partition(b"content-length:")[2].split(b"\r", 1)[0]) - len(rest)
        while left > 0:
            left -= len(self._more())
        return int(answer[9:12])

    def _more(self) -> bytes:
        if not (some := self._socket.recv(65536)):
            raise ConnectionResetError("the daemon closed the connection")
        return some


Ask = Callable[[Line, int], int]


class Clients:
    """Threads with a connection each that do the same again and again, and what they were told."""

    def __init__(self, path: Path, ask: Ask, count: int = 1, every_s: float = 0.0) -> None:
        self.told: Counter[int] = Counter()
        self.took: list[float] = []  # seconds, of what was accepted
        self._path, self._ask, self._count, self._every_s = path, ask, count, every_s
        self._numbers, self._over = itertools.count(), threading.Event()

    @contextmanager
    def asking(self) -> Iterator[Clients]:
        """Let them ask meanwhile."""
        threads = [threading.Thread(target=self._run, args=(place,)) for place in range(self._count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _run(self, place: int) -> None:
        """Ask at one's times; who is late asks at once."""
        due = time.monotonic() + self._every_s * place / self._count
        with closing(Line(self._path)) as line:
            while not self._over.wait(max(0.0, due - time.monotonic())):
                began = time.monotonic()
                status = self._ask(line, next(self._numbers))
                self.told[status] += 1
                if status < 300:
                    self.took.append(time.monotonic() - began)
                due += self._every_s

    def ms(self, percent: float) -> float:
        """Return a percentile of what was accepted."""
        return float(1000 * np.percentile(self.took, percent))


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    return 60.0 + 3 * _seconds(run, NORMAL_S) + _seconds(run, FLOOD_S)


def _seconds(run: Run, whole: float) -> float:
    return QUICK_S if run.quick else whole


def measure(run: Run, tools: Tools) -> Json:
    """Measure a daemon at its capacity, at ten times that, and after it."""
    data = run.load()
    train, test = data.split("train"), data.split("test")
    asks, normal_s, flood_s = _asks(test), _seconds(run, NORMAL_S), _seconds(run, FLOOD_S)
    with Daemon(adapt=False) as daemon, tools.task(run.name, 5) as step:
        path = daemon.store / "adaptd.sock"
        order: Ints = np.random.RandomState(run.seed).permutation(len(train))
        for part in np.array_split(order[:TAUGHT], 5):
            daemon.learn([train.texts[i] for i in part], [train.labels[i] for i in part])
        lessons = Lessons(train, order[TAUGHT:])
        _during(Clients(path, asks, NORMAL), path, lessons, normal_s / 4)  # its rate is known then
        step(1)
        normal = _during(Clients(path, asks, NORMAL), path, lessons, normal_s)
        capacity = len(normal.clients.took) / normal_s
        step(1)
        half = _during(Clients(path, asks, NORMAL, NORMAL / (0.5 * capacity)), path, lessons, normal_s)
        step(1)
        flood = _during(Clients(path, asks, FLOODING, FLOODING / (TIMES * capacity)), path, lessons, flood_s)
        step(1)
        recovered_s = _recovered(path, asks, normal.clients.ms(99) / 1000)
        found = daemon.main.call("POST", "/v1/text/events", lessons.given)["duplicates"]
        step(1)
    return {"rows": _rows(normal, half, flood, flood_s, capacity, recovered_s, max(0, lessons.taken - found))}


def _asks(test: Rows) -> Ask:
    def ask(line: Line, number: int) -> int:
        return line.exchange("POST", "/v1/text/predict", {"inputs": [{"text": test.texts[number % len(test)]}]})

    return ask


class Lessons:
    """Labelled events that one client gives one after the other, and how many were taken."""

    def __init__(self, train: Rows, rows: Ints) -> None:
        self._left = iter([{"id": f"late{i}", "source": "teacher", "text": train.texts[i], "label": train.labels[i]}
                           for i in rows])
        self.given: list[Json] = []
        self.taken = 0

    def give(self, line: Line, _: int) -> int:
        """Give the next one."""
        self.given.append(next(self._left))
        status = line.exchange("POST", "/v1/text/events", [self.given[-1]])
        self.taken += status == 202
        return status


@dataclass(frozen=True)
class Measured:
    """Who asked, who taught, and who looked meanwhile."""

    clients: Clients
    teacher: Clients
    operator: Clients


def _during(clients: Clients, path: Path, lessons: Lessons, seconds: float) -> Measured:
    """Let clients ask for so long, while one teaches and one asks for the status."""
    teacher = Clients(path, lessons.give, every_s=BESIDE_S)
    operator = Clients(path, lambda line, _: line.exchange("GET", "/v1/status"), every_s=BESIDE_S)
    with clients.asking(), teacher.asking(), operator.asking():
        time.sleep(seconds)  # the load is what is measured
    return Measured(clients, teacher, operator)


def _recovered(path: Path, ask: Ask, normal_s: float) -> float:
    """Return how long after the flood ten answers in a row begin that are as quick as normal ones."""
    began = since = time.monotonic()
    number = in_a_row = 0
    with closing(Line(path)) as line:
        while in_a_row < IN_A_ROW and since - began < 60.0:
            asked = time.monotonic()
            good = ask(line, number) == 200 and time.monotonic() - asked <= normal_s
            since, in_a_row = (since, in_a_row + 1) if good else (time.monotonic(), 0)
            number += 1
    return since - began


def _rows(normal: Measured, half: Measured, flood: Measured, flood_s: float, capacity: float, recovered_s: float,
          lost: int) -> list[Json]:
    def row(what: str, value: float, unit: str, budget: float | None, **absolute: Any) -> Json:
        return {"what": what, "value": value, "unit": unit, "budget": budget, "absolute": absolute}

    def slower(what: str, of: str, budget: float | None) -> Json:
        usual, flooded = getattr(normal, of), getattr(flood, of)
        return row(what, flooded.ms(99) / usual.ms(99), "× normal p99", budget, flood_ms=flooded.ms(99), normal_ms=usual.ms(99),
                   half_load_ms=getattr(half, of).ms(99), flood_p50_ms=flooded.ms(50), normal_p50_ms=usual.ms(50))

    told = flood.clients.told
    refused = sum(told[status] for status in REFUSED)
    return [row("asked for", told.total() / flood_s / capacity, "× capacity", None, per_s=told.total() / flood_s,
                capacity_per_s=capacity),
            row("answered", told[200] / flood_s / capacity, "× capacity", None, answered=told[200], refused=refused),
            row("failed", told.total() - refused - told[200], "requests", 0),
            slower("an answer, p99", "clients", BUDGET),
            slower("a label is learned, p99", "teacher", None),
            slower("status, p99", "operator", None),
            row("taken labels that were lost", lost, "events", 0),
            row("as quick as normal again", recovered_s, "s", RECOVERY_S)]
