"""A stopped store's status and history: read-only, with the standard library's sqlite3, never the model.

The tables are the truth for versions and counts. Figures that only a learner can compute (accuracy, forgetting,
drift) come from the document that the daemon left in table `store` at its last checkpoint.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from adaptd import postgres
from adaptd.errors import CannotStart, NotRunning, SchemaMismatch, UnknownDomain
from adaptd.paths import Paths

Json = dict[str, Any]
FOREVER = 1 << 62
DAMAGED = "restore the newest backup; keep the damaged file for a look"
UNMEASURED: Json = {"accuracy": {"prequential": None, "holdout": None}, "calibration": None, "abstention": None,
                    "forgetting": None, "drift": None, "last_verdict": None, "next_adaptation": None, "learn_lag": 0,
                    "next_consolidation": None, "weak": None,
                    "capacity": None, "incumbent": None, "probation": None}

NEWEST_SEQ = """SELECT max(s) FROM (
    SELECT max(seq) s FROM event UNION ALL SELECT max(seq) FROM label UNION ALL SELECT max(born) FROM learned
    UNION ALL SELECT max(seq) FROM death
    UNION ALL SELECT max(start) FROM branch UNION ALL SELECT max(seq) FROM action) AS newest"""

ALIVE = """WITH line(low, high) AS (VALUES {intervals}), alive AS (
    SELECT l.head, l.target, CASE WHEN EXISTS (SELECT 1 FROM eviction e, line
                                               WHERE e.row = l.id AND e.seq > low AND e.seq <= high) THEN 1 ELSE 0 END AS out
    FROM learned l WHERE l.domain = ? AND EXISTS (SELECT 1 FROM line WHERE l.born > low AND l.born <= high)
    AND NOT EXISTS (SELECT 1 FROM death d, line WHERE d.row = l.id AND d.seq > low AND d.seq <= high))
    SELECT (SELECT count(*) FROM (SELECT DISTINCT head, target FROM alive) AS names) AS labels,
           count(*) AS alive, coalesce(sum(out), 0) AS evicted FROM alive"""


class Statements(Protocol):
    """What reads a store: `sqlite3.Connection`, or its like for PostgreSQL. Parameters are question marks."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Any:
        """Run a statement; rows are found by place and by name."""
        ...

    def rollback(self) -> None:
        """End a transaction that was begun."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def stopped_status(paths: Paths) -> Json:
    """Return the contract's status document of a store whose daemon is not running.

    Raises
    ------
    NotRunning
        There is no store yet.
    SchemaMismatch
        The store's tables are not the ones this adaptd reads.
    """
    with reading(paths.store) as db:
        left = _left(db)
        figures = left.get("domains", {})
        domains = {row["name"]: _domain(db, row["id"], figures.get(row["name"], {}))
                   for row in db.execute("SELECT id, name FROM domain ORDER BY id")}
        return {"state": "stopped", "pid": None, "uptime_s": 0, "domains": domains,
                "seq": db.execute(NEWEST_SEQ).fetchone()[0] or 0, "chain": _head(db), "listening": [],
                "feeds": _feeds(db, left.get("feeds", {})), "outputs": _outputs(db, left.get("outputs", {})),
                "problems": left.get("problems", [])}


def stopped_history(paths: Paths, domain: str | None, limit: int) -> Json:
    """Return the newest actions of a store whose daemon is not running, of one domain or of all.

    Raises
    ------
    UnknownDomain
        The store has no such domain.
    """
    with reading(paths.store) as db:
        names = [row["name"] for row in db.execute("SELECT name FROM domain ORDER BY id")]
        if domain is not None and domain not in names:
            raise UnknownDomain(f"the store has no domain {domain!r}", hint=f"it has: {', '.join(names) or 'none'}")
        found = db.execute(
            "SELECT a.at, a.seq, d.name AS domain, what, before, after, actor, reason, detail"
            " FROM action a LEFT JOIN domain d ON d.id = a.domain WHERE coalesce(d.name, '') = coalesce(?, d.name, '')"
            " ORDER BY a.id DESC LIMIT ?", (domain, limit))
        return {"state": "stopped", "actions": [{**dict(row), "detail": json.loads(row["detail"])} for row in found]}


@contextmanager
def reading(store: Path | str) -> Iterator[Statements]:
    """Open a store read-only for a while; what it cannot be read for is told in words.

    Raises
    ------
    NotRunning
        There is no store yet.
    SchemaMismatch
        The store's tables are not the ones this adaptd reads.
    CannotStart
        It is damaged, or not for this user.
    """
    check_there(store)
    with closing(open_store(store)) as db:
        try:
            yield db
        except sqlite3.OperationalError as error:
            if str(error).startswith("no such"):
                raise SchemaMismatch(f"the store's schema is not the one this adaptd reads: {error}",
                                     hint="adaptd db upgrade, or install the adaptd that wrote it") from None
            raise CannotStart(f"{store}: {error}", hint="is the folder readable for this user?") from None
        except sqlite3.DatabaseError as error:
            raise CannotStart(f"{store}: {error}", hint=DAMAGED) from None


def is_there(store: Path | str) -> bool:
    """Say whether there is a store."""
    if isinstance(store, Path):
        return store.is_file() and store.stat().st_size > 0
    with closing(postgres.Reader(store)) as db:
        return db.execute("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL").fetchone() is not None


def check_there(store: Path | str) -> None:
    """Refuse what has never run.

    Raises
    ------
    NotRunning
        There is no store yet.
    """
    if not is_there(store):
        where = f"there is no {store}" if isinstance(store, Path) else "its database is empty"
        raise NotRunning(f"this store has never run: {where}", hint="start it: adaptd run")


def open_store(store: Path | str) -> Statements:
    """Open read-only."""
    if isinstance(store, str):
        return postgres.Reader(store)
    db = open_file(store)
    db.row_factory = sqlite3.Row
    return db


def open_file(file: Path) -> sqlite3.Connection:
    """Open SQLite read-only. In a folder that it cannot write it cannot make a WAL's index; without a WAL it need not."""
    uri = f"file:{quote(str(file))}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=5.0)
    try:
        db.execute("SELECT 1 FROM sqlite_master").fetchone()
        return db
    except sqlite3.OperationalError:
        db.close()
        wal = file.with_name(f"{file.name}-wal")
        if wal.exists() and wal.stat().st_size:
            raise CannotStart(f"{file}: cannot be read here, and its WAL holds what is not in it yet",
                              hint="run this as the daemon's user, in a folder that can be written") from None
        return sqlite3.connect(f"{uri}&immutable=1", uri=True)
    except sqlite3.DatabaseError as error:
        db.close()
        raise CannotStart(f"{file}: {error}", hint=DAMAGED) from None


def _head(db: Statements) -> Json:
    """Return the journal's chain head, as `adaptd.chain` shows it."""
    row = db.execute("SELECT entry, seq, hash FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    return {"entry": 0, "seq": 0, "hash": "00" * 32} if row is None else {**dict(row), "hash": row["hash"].hex()}


def _left(db: Statements) -> Json:
    """Return the status document that the daemon left, or nothing."""
    row = db.execute("SELECT value FROM store WHERE key = 'status'").fetchone()
    document = json.loads(row["value"]) if row else {}
    return document if isinstance(document, dict) else {}


def _domain(db: Statements, domain: int, left: Mapping[str, Any]) -> Json:
    pointer = db.execute("SELECT l.version, l.branch, l.since, v.parent FROM live l"
                         " JOIN version v ON v.number = l.version WHERE l.domain = ?", (domain,)).fetchone()
    if pointer is None:
        raise CannotStart("a domain of this store has no live version", hint="restore the newest backup")
    events = db.execute("SELECT count(*) FROM event WHERE domain = ? AND source <> ''", (domain,)).fetchone()[0]
    labelled = db.execute("SELECT count(DISTINCT l.event) FROM label l JOIN event e ON e.seq = l.event"
                          " WHERE e.domain = ?", (domain,)).fetchone()[0]
    holds = db.execute("SELECT what, source FROM hold WHERE domain = ?", (domain,)).fetchall()
    labels, memory, evicted = _alive(db, domain, pointer["branch"])
    return {**UNMEASURED, **_figures(left, pointer["version"]), "version": pointer["version"],
            "parent": pointer["parent"], "promoted_at": pointer["since"], "labels": labels, "events": events,
            "labelled": labelled, "memory": memory, "evicted": evicted, "adapting": None,
            "held": sorted(row["source"] for row in holds if row["what"] == "learning"),
            "adaptation_held": any(row["what"] == "adaptation" for row in holds)}


def _figures(left: Mapping[str, Any], version: int) -> Json:
    """Keep what the daemon measured; what it measured of another version is not this one's."""
    kept = {key: left[key] for key in UNMEASURED if key in left}
    if kept and left.get("version") != version:
        kept["forgetting"] = kept["probation"] = None
        kept["accuracy"] = {**UNMEASURED["accuracy"], **(kept.get("accuracy") or {}), "holdout": None}
    return kept


def _alive(db: Statements, domain: int, branch: int) -> tuple[int, int, int]:
    """Count the labels known, and the examples learned that are retrievable and evicted now (`adaptd.rows` has the rule)."""
    intervals = list(_lineage(db, branch))
    if not intervals:
        return 0, 0, 0
    query = ALIVE.format(intervals=",".join(["(?, ?)"] * len(intervals)))
    row = db.execute(query, [*(bound for pair in intervals for bound in pair), domain]).fetchone()
    return row["labels"], row["alive"] - row["evicted"], row["evicted"]


def _lineage(db: Statements, branch: int | None) -> Iterator[tuple[int, int]]:
    """Yield the seq intervals that make up a branch's state, as `adaptd.rows.lineage` does."""
    seq = FOREVER
    while branch is not None:
        row = db.execute("SELECT parent, fork, start FROM branch WHERE id = ?", (branch,)).fetchone()
        if seq > row["start"]:
            yield row["start"], seq
        branch, seq = row["parent"], min(seq, row["fork"])


def _outputs(db: Statements, left: Mapping[str, Any]) -> Json:
    return {row["name"]: {"offset": None, "lag": None, "errors": 0, **left.get(row["name"], {}),
                          "state": "paused" if row["paused"] else "stopped", "sent": row["sent"]}
            for row in db.execute("SELECT name, sent, paused FROM output ORDER BY name")}


def _feeds(db: Statements, left: Mapping[str, Any]) -> Json:
    return {row["name"]: {"lag": None, "errors": 0, **left.get(row["name"], {}),
                          "state": "paused" if row["paused"] else "stopped",
                          "offset": json.loads(row["cursor"] or "null")}
            for row in db.execute("SELECT name, cursor, paused FROM feed ORDER BY name")}
