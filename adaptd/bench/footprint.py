"""Bytes of an exemplar, on disk and in RAM, as a ratio to its stored features at 16 bits."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from adaptd.bench.daemon import Daemon

BUDGET = 2.5
UNIT = "× its features at 16 bits"
EXEMPLARS = ("vector", "learned")  # the tables that hold them; the journal's own are told apart
PAGES = """SELECT coalesce(sum(s.pgsize), 0) FROM dbstat s JOIN sqlite_master m ON m.name = s.name
    WHERE s.aggregate = 1 AND m.tbl_name IN ({names})"""


def resident_mb(pid: int) -> float:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def measure(daemon: Daemon, fresh_mb: float) -> list[dict[str, Any]]:
    """Return the rows about disk and RAM of a daemon that has learned; `fresh_mb` was its memory when it had not."""
    heads = daemon.main.call("GET", "/v1/text/memory")["heads"].values()
    count = sum(head["rows"] for head in heads)
    with closing(sqlite3.connect(f"file:{daemon.store / 'adaptd.db'}?mode=ro", uri=True)) as db:
        features = db.execute("SELECT avg(length(data)) FROM vector").fetchone()[0]
        on_disk = db.execute(PAGES.format(names=",".join("?" * len(EXEMPLARS))), EXEMPLARS).fetchone()[0]
        whole = db.execute("SELECT sum(pgsize) FROM dbstat WHERE aggregate = 1").fetchone()[0]
    index = sum(file.stat().st_size for file in (daemon.store / "checkpoints").rglob("*index*") if file.is_file())
    disk, arrays = (on_disk + index) / count, sum(head["bytes"] for head in heads) / count
    grown = (resident_mb(daemon.pid) - fresh_mb) * 2**20 / count
    journal = (whole - on_disk) / count
    return [_row("exemplar on disk", disk / features, BUDGET, bytes=disk, journal_bytes=journal,
                 features_bytes=features),
            _row("exemplar in RAM, its arrays", arrays / features, BUDGET, bytes=arrays),
            _row("daemon's growth in RAM by exemplar", grown / features, None, bytes=grown, exemplars=count)]


def _row(what: str, value: float, budget: float | None, **absolute: Any) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": UNIT, "budget": budget, "absolute": absolute}
