"""Fork: learn a stretch of the journal again beside production, with a source left out or a setting changed.

Reads a store, running or stopped, and changes nothing. Two lines start from the rows, adapters and folds of a moment and learn
what came since, label by label in the journal's order: one as it is configured, one as is asked for. Each label first judges
what either would have answered (prequential evaluation; Dawid, 1984), the same labels for both. The regret is the errors that
the fork would have spared: cumulative, over time. Adaptations are not run again: both keep the moment's adapters.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from scipy.stats import binomtest
from sqlalchemy import Connection, func, select

from adaptd import beside, moments, offline, registry
from adaptd import tables as t
from adaptd.asof import AsOf
from adaptd.config import DomainSettings
from adaptd.errors import BadConfig, NotFound
from adaptd.paths import Paths
from adaptd.records import Learned, Row, Said
from adaptd.rows import answered_before, first_labels, lineage, replay

FEWEST, MOST = 16, 256  # labels between two solutions of the ridge, whenever they came
PARTS = 12  # into which the time is divided
TABLES = ("learn", "memory")  # of the configuration: what another value of changes what is learned from here on
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is otherwise in the fork."""

    settings: DomainSettings
    without: Sequence[str] = ()


def changed(now: DomainSettings, assignments: Sequence[str]) -> DomainSettings:
    """Return the settings of a domain with others, each as ``table.key = value`` of TOML.

    Raises
    ------
    BadConfig
        It is no assignment, no such setting, or not a value for it.
    """
    document = now.model_dump()
    for one in assignments:
        try:
            given = tomllib.loads(one)
        except tomllib.TOMLDecodeError as error:
            raise BadConfig(f"--set {one}: {error}", field="set",
                            hint="as in the file: learn.features=2048, or memory.policy='drift'") from None
        for table, keys in given.items():
            if table not in TABLES or not isinstance(keys, dict):
                raise BadConfig(f"--set {one}: a fork can change {' and '.join(TABLES)}", field="set",
                                hint="adaptations are not run again: strategies and gates are compared by adaptd bench")
            document[table] = {**document[table], **keys}
    try:
        return DomainSettings(**document)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise BadConfig(f"--set {name}: {first['msg']}", field=name, hint="adaptd config show has every setting") from None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One label that judges both: which row, when it came, and whether each line would have been right; None: not asked."""

    row: Row
    at: float
    now: bool
    fork: bool
    answered: bool | None


def fork(paths: Paths, domain: str, at: float, now: DomainSettings, change: Change, allow: Sequence[str],
         advance: Callable[[int, int], None]) -> Json:
    """Learn what came since a moment twice and compare; `advance` is told (labels done, of how many).

    Raises
    ------
    NotFound
        There was nothing at that moment, nothing came since, or there is no such source.
    Conflict
        The store lacks vectors.
    """
    with offline.reading(paths, domain) as (connection, number):
        moment = moments.find(connection, number, at)
        entries = replay(connection, number, lineage(connection, registry.live(connection, number).branch), moment.seq)
        _check_sources(entries, change.without)
        start = AsOf.at(connection, paths, number, moment, allow)
        times = _times(connection, [entry.seq for entry in entries])
        blocks = list(_blocks(entries, times, now.learn.solve_after_s))
        lines = (beside.outcomes(start.state(now), blocks, start.vectors),
                 beside.outcomes(start.state(change.settings), _without(blocks, change.without), start.vectors))
        found: tuple[dict[int, bool], dict[int, bool]] = ({}, {})
        for step, parts in enumerate(zip(*lines, strict=True)):
            for known, part in zip(found, parts, strict=True):
                known.update(part)
            advance(sum(map(len, blocks[:step + 1])), len(entries))
        judging = [row for row in first_labels(entries) if row.id in found[0] and row.id in found[1]]
        judged = _judged(connection, [row for row in judging if row.source not in change.without], times, *found)
    if not judged:
        raise NotFound("no label since then could judge an answer", field="at", hint="give an earlier moment")
    return {"at": at, "seq": moment.seq, "version": moment.version.number, "without_sources": list(change.without),
            "labels": sum(len(entry.born) for entry in entries), **_figures(judged), "over_time": _over_time(judged)}


def _check_sources(entries: Sequence[Learned], without: Sequence[str]) -> None:
    known = {row.source for entry in entries for row in entry.born}
    if not known:
        raise NotFound("no label was learned since then", field="at", hint="give an earlier moment")
    for source in without:
        if source not in known:
            raise NotFound(f"no label since then is of source {source!r}", field="without_source",
                           hint=f"there are: {', '.join(sorted(known)[:10])}")


def _blocks(entries: Sequence[Learned], times: Mapping[int, float], solve_after_s: float) -> Iterator[list[Learned]]:
    """Divide entries where the daemon would have solved the ridge: by their time, but neither too often nor too seldom."""
    block: list[Learned] = []
    for entry in entries:
        late = bool(block) and times.get(entry.seq, 0.0) - times.get(block[0].seq, 0.0) > solve_after_s
        if len(block) >= MOST or (late and len(block) >= FEWEST):
            yield block
            block = []
        block.append(entry)
    if block:
        yield block


def _without(blocks: Sequence[Sequence[Learned]], sources: Sequence[str]) -> Iterator[list[Learned]]:
    for block in blocks:
        yield [replace(entry, born=[row for row in entry.born if row.source not in sources]) for entry in block]


def _judged(connection: Connection, rows: Sequence[Row], times: Mapping[int, float], now: Mapping[int, bool],
            fork_: Mapping[int, bool]) -> list[Judged]:
    """Return what judges both lines, in the order of the journal, with what was answered at the time."""
    said = answered_before(connection, {row.event: row.born for row in rows})
    return [Judged(row=row, at=times[row.born], now=now[row.id], fork=fork_[row.id], answered=_right(said.get(row.event), row))
            for row in rows if row.born in times]


def _right(said: Said | None, row: Row) -> bool | None:
    return said.to(row) == row.target if said is not None and row.head in said.labels else None


def _times(connection: Connection, seqs: Sequence[int]) -> dict[int, float]:
    """Return when labels came, by seq; one that was learned late has the time at which its event came."""
    found: dict[int, float] = {}
    for start in range(0, len(seqs), 500):
        some = seqs[start:start + 500]
        early = (select(t.learned.c.born, func.min(t.event.c.received)).join(t.event, t.event.c.seq == t.learned.c.event)
                 .where(t.learned.c.born.in_(some)).group_by(t.learned.c.born))
        labelled = select(t.label.c.seq, t.label.c.received).where(t.label.c.seq.in_(some))
        for query in (early, labelled):
            found.update({seq: came for seq, came in connection.execute(query)})
    return found


def _figures(judged: Sequence[Judged]) -> Json:
    """Return how often each was right, the regret, and how sure it is which of the two is better (McNemar, 1947; exact)."""
    won, lost = sum(one.fork and not one.now for one in judged), sum(one.now and not one.fork for one in judged)
    asked = [one.answered for one in judged if one.answered is not None]
    return {"judged": len(judged), "now": _share([one.now for one in judged]), "fork": _share([one.fork for one in judged]),
            "answered": _share(asked), "answered_of": len(asked), "won": won, "lost": lost, "regret": won - lost,
            "p": float(binomtest(won, won + lost).pvalue) if won + lost else 1.0}


def _share(right: Sequence[bool | None]) -> float | None:
    return sum(map(bool, right)) / len(right) if right else None


def _over_time(judged: Sequence[Judged]) -> list[Json]:
    """Divide what judged into parts of equal size; the regret is cumulative."""
    size, regret, parts = -(-len(judged) // PARTS), 0, []
    for start in range(0, len(judged), size):
        part = judged[start:start + size]
        figures = _figures(part)
        regret += figures["regret"]
        kept = {key: figures[key] for key in ("judged", "now", "fork", "answered", "answered_of")}
        parts.append({"since": part[0].at, **kept, "regret": regret})
    return parts
