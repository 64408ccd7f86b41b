"""Ingest: unlabelled events over HTTP, a thousand in a request, beside the bare database committing the same rows.

Both in turns, on a store of the same engine: the bare one gets exactly the rows that the daemon has written (events and
chain), by the driver's own `executemany`, a transaction for each thousand, with the writer's settings.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adaptd import db, postgres
from adaptd import tables as t
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import Run, Tools
from adaptd.chain import EVENT
from adaptd.client import Client
from adaptd.status import open_store

BATCH, CLIENTS, TURN = 1000, 4, 8  # events a request, requests at a time, requests before it is the other's turn
TURNS, QUICK_TURNS = 15, 3
BUDGET = 0.5
COLUMNS = {"event": EVENT, "chain": tuple(column.name for column in t.chain.columns)}
Json = dict[str, Any]


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    return 2 * (20.0 + 1.5 * _turns(run))


def measure(run: Run, tools: Tools) -> Json:
    """Measure each engine; PostgreSQL where a server is named."""
    texts = run.load().split("train").texts
    stores = ["sqlite", *(["postgresql"] if run.postgres else [])]
    with tools.task(run.name, len(stores) * _turns(run)) as step:
        rows = [_engine(run, store, texts, step) for store in stores]
    return {"rows": rows} if run.postgres else {"rows": rows, "remark": "PostgreSQL: not measured, --postgres names no server."}


def _turns(run: Run) -> int:
    return QUICK_TURNS if run.quick else TURNS


def _engine(run: Run, store: str, texts: Sequence[str], step: Callable[[int], None]) -> Json:
    with ExitStack() as stack:
        urls = [stack.enter_context(_database(run.postgres)) if store == "postgresql" and run.postgres else None for _ in "ab"]
        daemon = stack.enter_context(Daemon(adapt=False, url=urls[0]))
        where = urls[0] or daemon.store / "adaptd.db"
        commit = stack.enter_context(_bare(urls[1] or daemon.store / "bare.db"))
        pool, clients = stack.enter_context(ThreadPoolExecutor(CLIENTS)), [daemon.connect() for _ in range(CLIENTS)]
        for client in clients:
            stack.callback(client.close)
        ours: list[float] = []
        bare: list[float] = []
        seq = 0
        for turn in range(_turns(run) + 1):
            bodies = [_body(texts, turn * TURN + number) for number in range(TURN)]
            ours.append(_seconds(partial(_all_sent, pool, clients, bodies)))
            seq, times = _copy(where, seq, commit)
            bare.append(sum(times))
            step(turn > 0)
        per_ours, per_bare = float(np.median(ours[1:])), float(np.median(bare[1:]))  # the first one warms both up
        return {"what": f"{store}, {BATCH} events a request", "value": per_bare / per_ours, "unit": "× bare commits",
                "budget": BUDGET, "absolute": {"events a second": TURN * BATCH / per_ours, "bare": TURN * BATCH / per_bare}}


def _body(texts: Sequence[str], batch: int) -> bytes:
    """Return a request's body; texts come again, ids do not."""
    first = batch * BATCH
    events = [{"id": f"i{number}", "text": texts[number % len(texts)]} for number in range(first, first + BATCH)]
    return json.dumps(events).encode()


def _all_sent(pool: ThreadPoolExecutor, clients: Sequence[Client], bodies: Sequence[bytes]) -> None:
    """Let each client send its share, one request after the other."""
    def sent(client: Client, share: Sequence[bytes]) -> int:
        return sum(client.call("POST", "/v1/text/events", body)["accepted"] for body in share)

    shares = [bodies[place::len(clients)] for place in range(len(clients))]
    assert sum(pool.map(sent, clients, shares)) == BATCH * len(bodies)


def _copy(where: Path | str, after: int, commit: Callable[[Json], None]) -> tuple[int, list[float]]:
    """Commit what the daemon has written since, a thousand events at a time; return the last seq, and what each took."""
    times: list[float] = []
    with closing(open_store(where)) as opened:
        while True:
            rows = {name: [tuple(row) for row in opened.execute(
                f"SELECT {', '.join(names)} FROM {name} WHERE seq > ? ORDER BY seq LIMIT {BATCH}", (after,))]  # noqa: S608
                for name, names in COLUMNS.items()}
            if not rows["event"]:
                return after, times
            times.append(_seconds(partial(commit, rows)))
            after = rows["event"][-1][0]


@contextmanager
def _bare(where: Path | str) -> Iterator[Callable[[Json], None]]:
    """Give what commits rows to an empty store with the driver alone."""
    engine = db.writing_engine(where)
    try:
        db.upgrade(engine)
        with engine.begin() as connection:
            connection.execute(t.domain.insert().values(name="text"))
        raw: Any = engine.raw_connection().driver_connection
        mark, begin = ("?", "BEGIN IMMEDIATE") if isinstance(raw, sqlite3.Connection) else ("%s", "BEGIN")
        statements = {name: f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))})"  # noqa: S608
                      for name, names in COLUMNS.items()}

        def commit(rows: Json) -> None:
            cursor = raw.cursor()
            if isinstance(raw, sqlite3.Connection):
                cursor.execute(begin)
            for name, statement in statements.items():
                cursor.executemany(statement, rows[name])
            raw.commit()

        yield commit
    finally:
        engine.dispose()


@contextmanager
def _database(server: str) -> Iterator[str]:
    """Make a database on a server, and give its URL."""
    name = f"adaptd_bench_{time.time_ns()}"
    with closing(postgres.connect(server, autocommit=True)) as session:
        session.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        try:
            yield f"{server.partition('?')[0].rpartition('/')[0]}/{name}"
        finally:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
