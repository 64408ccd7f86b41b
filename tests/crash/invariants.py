"""What must hold of a store after any crash: one function, `violations`, on a store whose daemon is dead.

Everything is read past the daemon, from the database and the files. What was acknowledged is kept outside (`Truth`).
Sums are integers, so "equal to a replay of the journal" means equal, bit for bit.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from adaptd import db, doctor, erase, mirror, registry, rows, verify
from adaptd import tables as t
from adaptd.errors import AdaptdError, CorruptFile
from adaptd.metrics import Outcomes, count_answers
from adaptd.model import files
from adaptd.model.closed_form import RandomFeatures, Ridge
from adaptd.model.means import ClassMeans
from adaptd.paths import Paths
from adaptd.status import is_there, open_store

# A crash may leave these: the next start, or the doctor, takes them away; an event is encoded after its commit.
LEFT = {"orphan", "stale_job", "missing_vectors"}


@dataclass
class Truth:
    """What clients were told, and what they asked for without hearing back."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # key -> text
    labels: dict[str, Any] = field(default_factory=dict)  # key -> the last label that was acknowledged
    asked: dict[str, Any] = field(default_factory=dict)  # key -> a label that was sent, and not answered
    forgotten: set[str] = field(default_factory=set)  # keys
    forgetting: set[str] = field(default_factory=set)  # … asked for, and not answered
    versions: set[int] = field(default_factory=set)
    live: int | None = None  # None: a move was under way


def _has_tables(paths: Paths) -> bool:
    if not is_there(paths.store):
        return False
    with closing(db.reading_engine(paths.store).connect()) as connection:
        return inspect(connection).has_table("event")


def violations(paths: Paths, truth: Truth, feed: Path | None = None) -> list[str]:
    """Return what is wrong with the store of a daemon that is dead; nothing is changed."""
    if not truth.acknowledged and not _has_tables(paths):
        return []  # killed before it was a store
    try:
        with closing(db.reading_engine(paths.store).connect()) as connection:
            return [*_whole(connection, paths), *_events(connection, truth), *_labels(connection, truth), *_learned(connection),
                    *_versions(connection, paths, truth), *_offsets(connection, feed), *_replayed(connection, paths),
                    *_chain(paths)]
    except (AdaptdError, SQLAlchemyError, sqlite3.Error) as error:
        return [f"the database cannot be read: {error}"]


def _whole(connection: Connection, paths: Paths) -> Iterator[str]:
    if paths.url is None:
        if (said := connection.execute(text("PRAGMA integrity_check")).scalars().all()) != ["ok"]:
            yield f"the database is damaged: {said}"
        if broken := connection.execute(text("PRAGMA foreign_key_check")).all():
            yield f"foreign keys point nowhere: {broken[:3]}"
    else:
        named = {digest for files_of in mirror.files(connection).values() for digest in files_of.values()}
        if named != (there := set(connection.execute(select(t.file.c.digest)).scalars())):
            yield f"versions name {len(named)} files, and {len(there)} others are in the tables"
    for finding in doctor._store(paths, running=False):
        if finding.code not in LEFT:
            yield f"doctor: {finding.code}: {finding.message}"


def _events(connection: Connection, truth: Truth) -> Iterator[str]:
    found = connection.execute(select(t.event.c.key, t.event.c.payload).where(t.event.c.source == "http")).all()
    times, payloads = Counter(r.key for r in found), {r.key: json.loads(r.payload)["text"] for r in found}
    for key, said in truth.acknowledged.items():
        if key in truth.forgotten or (key in truth.forgetting and key not in times):
            continue
        if times[key] != 1 or payloads[key] != said:
            yield f"acknowledged event {key} is there {times[key]} times, as {payloads.get(key)!r} for {said!r}"
    for key in truth.forgotten & set(times):
        yield f"event {key} was forgotten, and is there"


def _labels(connection: Connection, truth: Truth) -> Iterator[str]:
    query = select(t.event.c.key, t.label.c.label).join(t.label, t.label.c.event == t.event.c.seq)
    last = {r.key: json.loads(r.label) for r in connection.execute(query.order_by(t.label.c.seq))}
    for key, label in truth.labels.items():
        allowed = {label, truth.asked.get(key, label)}
        if key not in truth.forgotten | truth.forgetting and last.get(key) not in allowed:
            yield f"the label of {key} is {last.get(key)!r}, and {label!r} was acknowledged"


def _learned(connection: Connection) -> Iterator[str]:
    """Each label that does not wait was learned, once; nothing was learned that nobody taught."""
    said = {"sqlite": "json_extract(l.label, '$')", "postgresql": "(l.label\\:\\:json #>> '{}')"}[connection.dialect.name]
    twice = connection.execute(text("SELECT event, head, born, count(*) FROM learned GROUP BY 1, 2, 3 HAVING count(*) > 1")).all()
    if twice:
        yield f"learned twice: {twice[:3]}"
    unlearned = connection.execute(text(
        "SELECT l.seq FROM label l WHERE l.held = 0 AND NOT EXISTS (SELECT 1 FROM learned r WHERE r.event = l.event"
        f" AND (r.born = l.seq OR r.target = {said}))")).all()
    if unlearned:
        yield f"labels that were never learned: {unlearned[:3]}"
    untaught = connection.execute(text(
        "SELECT r.id FROM learned r WHERE NOT EXISTS (SELECT 1 FROM label l WHERE l.event = r.event"
        f" AND {said} = r.target)"
        # nor did an example follow a label that changed: the history says so, and another row of its event died then
        " AND NOT EXISTS (SELECT 1 FROM death d JOIN learned o ON o.id = d.row JOIN action a ON a.seq >= r.born"
        "   WHERE d.seq = r.born AND o.event = r.event AND a.what = 'drift')")).all()
    if untaught:
        yield f"rows that nobody taught: {untaught[:3]}"
    if not connection.execute(select(t.hold.c.domain).where(t.hold.c.what == "learning")).all():
        if waiting := connection.execute(select(t.label.c.seq).where(t.label.c.held == 1)).all():
            yield f"labels wait though nothing is on hold: {waiting[:3]}"
    for (domain,) in connection.execute(select(t.domain.c.id)).all():
        alive = _alive(connection, domain, registry.live(connection, domain).branch, rows.FOREVER)
        if double := [key for key, n in Counter((r.event, r.head) for r in alive).items() if n > 1]:
            yield f"more than one row of an event is alive: {double[:3]}"


def _versions(connection: Connection, paths: Paths, truth: Truth) -> Iterator[str]:
    for (domain,) in connection.execute(select(t.domain.c.id)).all():
        known = {one.number: one for one in registry.versions(connection, domain)}
        for one in known.values():
            try:
                registry.read(paths.versions / str(one.number), one.files)
            except CorruptFile as error:
                yield f"version {one.number}: {error.message}"
        if lost := truth.versions - set(known):
            yield f"versions that were acknowledged are gone: {sorted(lost)}"
        pointer = registry.live(connection, domain)
        if truth.live is not None and pointer.version != truth.live:
            yield f"version {pointer.version} is live, and {truth.live} was acknowledged"


def _offsets(connection: Connection, feed: Path | None) -> Iterator[str]:
    """The events of a feed are the lines before its cursor: none is missing, none came twice."""
    row = connection.execute(select(t.feed)).one_or_none() if feed is not None else None
    if row is None or feed is None:
        return
    before = feed.read_bytes()[:json.loads(row.cursor)["offset"]] if row.cursor else b""
    wanted = [json.loads(line)["id"] for line in before.splitlines()]
    found = list(connection.execute(select(t.event.c.key).where(t.event.c.source == "tail").order_by(t.event.c.seq)).scalars())
    if found != wanted or (before and not before.endswith(b"\n")):
        yield f"the feed's cursor is behind {len(wanted)} lines, and {len(found)} events are there"


def _chain(paths: Paths) -> Iterator[str]:
    """Nothing is in the journal that the chain does not hold, and nothing is missing from it."""
    with closing(open_store(paths.store)) as store:
        if (result := verify.verify(store)).breaks:
            yield f"the chain breaks {result.breaks} times: {result.broken[0].message}"


# -- memory and statistics ------------------------------------------------------------------------------------------


def _alive(connection: Connection, domain: int, branch: int, seq: int) -> Sequence[Any]:
    return connection.execute(rows.alive(domain, rows.lineage(connection, branch, seq))).all()


def _replayed(connection: Connection, paths: Paths) -> Iterator[str]:
    """Compare each checkpoint, which is what the daemon held in memory, with a replay of the journal up to its seq."""
    for domain, name in connection.execute(select(t.domain.c.id, t.domain.c.name)).all():
        if erase.pending(connection, domain) is not None:
            continue  # a forget was cut off after its commit: the next start removes them before anything is read from them
        for folder in sorted((paths.checkpoints / name).glob("[0-9]*")):
            try:
                manifest = json.loads((folder / "manifest.json").read_text())
                facts, contents = manifest["facts"], registry.read(folder, manifest["files"])
            except (OSError, ValueError, CorruptFile) as error:
                yield f"checkpoint {folder.name}: {error}"
                continue
            yield from (f"checkpoint {folder.name}: {wrong}" for wrong in _memory(connection, domain, facts, contents))
            yield from (f"checkpoint {folder.name}: {wrong}" for wrong in _folds(connection, domain, facts))


def _memory(connection: Connection, domain: int, facts: Any, contents: dict[str, bytes]) -> Iterator[str]:
    tensors, about = files.parse(contents["label.sums"], "sums")
    place = {label: index for index, label in enumerate(about["labels"])}
    alive = {r.id: r for r in _alive(connection, domain, facts["branch"], facts["seq"])}
    held = tensors["ids"][tensors["alive"]].tolist()
    if sorted(held) != sorted(alive):
        yield f"{len(held)} rows are in memory, {len(alive)} are alive"
        return
    vectors, classes = _rows_of(connection, held, place)
    means = ClassMeans(vectors.shape[1])
    means.add(vectors, classes, len(place))
    counts, sums = (torch.nn.functional.pad(x, (*(0, 0) * (x.dim() - 1), 0, len(place) - len(x))) for x in (
        tensors["means_counts"], tensors["means"]))
    if not torch.equal(counts, means.counts) or not torch.equal(sums, means.sums):
        yield "class means differ from a replay"
    if "ridge.gram" in tensors:
        yield from _ridge(connection, tensors, about, place)
    born = [r.id for r in rows.births(connection, domain, rows.lineage(connection, facts["branch"], facts["seq"]), "label")]
    rank = {row: number for number, row in enumerate(born)}
    if tensors["order"][tensors["alive"]].tolist() != [rank[row] for row in held]:
        yield "the ages of rows differ from a replay"


def _ridge(connection: Connection, tensors: dict[str, torch.Tensor], about: Any, place: dict[str, int]) -> Iterator[str]:
    dim, count, seed, _ = about["features"]
    vectors, classes = _rows_of(connection, tensors["ids"][tensors["summed"]].tolist(), place)
    ridge, features = Ridge(count), RandomFeatures(dim, count, seed)
    ridge.gram = torch.zeros(count, count, dtype=torch.int32)
    ridge.add(features(vectors), classes, len(tensors["ridge.counts"]))
    for name, tensor in ridge.state().items():
        if not torch.equal(tensor, tensors[f"ridge.{name}"]):
            yield f"the ridge's {name} differs from a replay"


def _rows_of(connection: Connection, ids: Sequence[int], place: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    query = select(t.learned.c.id, t.learned.c.target, t.vector.c.data).join(
        t.vector, (t.vector.c.event == t.learned.c.event) & (t.vector.c.part == t.learned.c.part))
    found = {r.id: r for r in connection.execute(query)}
    vectors = [torch.frombuffer(bytearray(found[row].data), dtype=torch.float16) for row in ids]
    return (torch.stack(vectors) if vectors else torch.zeros(0, 64, dtype=torch.float16),
            torch.tensor([place[found[row].target] for row in ids], dtype=torch.int64))


def _folds(connection: Connection, domain: int, facts: Any) -> Iterator[str]:
    """Answers that were given, counted anew over the journal."""
    entries = rows.replay(connection, domain, rows.lineage(connection, facts["branch"], facts["seq"]), 0)
    judging, counted, tallies = rows.first_labels(entries), Outcomes(), {}
    given = rows.answered_before(connection, {row.event: row.born for row in judging})
    count_answers(counted, tallies, judging, given)
    kept = facts["folds"]["prequential"]
    if (kept["total"], kept["right"], kept["window"]) != (counted.total, counted.right, counted.facts()["window"]):
        yield f"{kept['total']} answers are counted, {counted.total} by a replay"
    if facts["folds"]["per_label"] != tallies:
        yield "the tallies of labels differ from a replay"
