"""What the daemon says about itself: problems, and figures of the tables."""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, func, select

from adaptd import incumbent, registry, scores
from adaptd import tables as t
from adaptd.records import Problem
from adaptd.rows import lineage
from adaptd.served import Served

Json = dict[str, Any]
PROBLEM_S = 3600.0  # how long a problem that does not come again is shown


class Problems:
    """What is wrong now: one entry per code and message, gone an hour after it was last seen."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[Problem, float]] = {}
        self._lock = threading.Lock()

    def report(self, code: str, message: str, hint: str = "") -> None:
        """Note a problem, or see it again."""
        now = time.time()
        with self._lock:
            known = self._found.get((code, message))
            problem = known[0] if known else Problem(code=code, message=message, since=now, hint=hint)
            self._found[code, message] = problem, now

    def now(self) -> list[Json]:
        """List the problems, oldest first."""
        with self._lock:
            self._found = {key: value for key, value in self._found.items() if time.time() - value[1] < PROBLEM_S}
            return [vars(problem) for problem, _ in sorted(self._found.values(), key=lambda v: v[0].since)]


def quarantined(served: Served) -> list[Json]:
    """Return a problem for each source of a domain that is held by itself, for as long as it is."""
    found = []
    for source, (since, reason) in sorted(served.journal.late.quarantined(served.id).items()):
        words = f"--domain {served.name} --source {shlex.quote(source)}"
        hint = (f"look at its labels, then admit what waits: adaptd resume {words}; or drop it: adaptd resume {words} --drop. "
                "What it taught before that: adaptd rollback --at TIME --and-replay --except-source, or adaptd forget --source")
        message = f"{served.name}: source {source!r} is on hold: {reason}"
        found.append(vars(Problem(code="quarantine", message=message, since=since, hint=hint,
                                  subject=f"{served.name}: {source}")))
    return found


class Counts:
    """Figures of the tables, read at most once a second, and anew for another version."""

    def __init__(self, reader: Engine, domains: Mapping[str, Served]) -> None:
        self._reader = reader
        self._domains = domains
        self._cached: dict[str, tuple[float, Json]] = {}

    def of(self, name: str) -> Json:
        """Return counts of events and labels, the pointer, the newest verdict of a domain."""
        at, known = self._cached.get(name, (0.0, {}))
        if time.monotonic() - at > 1.0 or known["version"] != self._domains[name].learner.state.version:
            known = self._read(self._domains[name])
            self._cached[name] = time.monotonic(), known
        return known

    def renew(self, name: str) -> None:
        """Read them anew next time: something took rows away."""
        self._cached.pop(name, None)

    def _read(self, served: Served) -> Json:
        with self._reader.connect() as connection:
            live = registry.live(connection, served.id)
            newest = connection.execute(
                select(t.version.c.verdict, t.version.c.metrics)
                .where(t.version.c.domain == served.id, t.version.c.kind == "candidate")
                .order_by(t.version.c.number.desc())
                .limit(1)
            ).one_or_none()
            events = connection.scalar(select(func.count()).where(t.event.c.domain == served.id, t.event.c.source != t.FORGOTTEN))
            labelled = connection.scalar(
                select(func.count(t.label.c.event.distinct()))
                .join(t.event, t.event.c.seq == t.label.c.event)
                .where(t.event.c.domain == served.id)
            )
            parent = registry.version(connection, live.version).parent
            switched = incumbent.switched(connection, served.id)
            heads = scores.of(connection, served.id, lineage(connection, live.branch), served.domain.heads)
            weak = served.admission.facts(connection)
        return {
            "version": live.version,
            "parent": parent,
            "since": live.since,
            "switched": switched,
            "heads": heads,
            "weak": weak,
            "events": events,
            "labelled": labelled,
            "verdict": json.loads(newest.verdict) if newest and newest.verdict else None,
            "metrics": json.loads(newest.metrics) if newest else {},
            "forgetting": served.adaptation.forgetting(),
        }
