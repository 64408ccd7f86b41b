"""Erase: take events and all that was made of them out of the tables, and say what that means for the versions.

Where: the part of `forget` that is the store's; `adaptd.forget` does it on a running daemon, `adaptd.offline` on a
stopped one. The tables change in one transaction, which also notes the files that are to go; so a crash leaves
nothing forgotten, or all of it and a note that the next start works off. An event keeps an empty row: its daemon's
id, and an HMAC of the client's, so that the same event delivered again is told so and not learned again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, delete, func, insert, or_, select, update

from adaptd import blobs, bounds, chain, outbox, registry, tested
from adaptd import tables as t
from adaptd.errors import NotFound
from adaptd.heads import SHORTENED, named, said
from adaptd.history import act, last_seq
from adaptd.journal import token
from adaptd.paths import Paths
from adaptd.records import Erased, canonical
from adaptd.relearn import DRIFT
from adaptd.rows import Interval, lineage
from adaptd.selector import Selector
from adaptd.setaside import TRIALS

KEPT = ("trained", "resolved", "moment", registry.EXPIRED)  # of a version's metrics: what says nothing of its records
REMOVED = "removed with a record that was forgotten"  # instead of words that may name a label
RETIRED = "its adapter was trained on a record that was forgotten"
Counts = dict[str, int]


# -- the transaction ------------------------------------------------------------------------------------------


def erase(connection: Connection, domain: int, selector: Selector, reason: str, actor: str) -> Erased:
    """Forget the events that are selected, in the caller's transaction.

    Raises
    ------
    NotFound
        There is no such event. (A source, subject, label or time without any is no error: a request may be repeated.)
    """
    key = bytes.fromhex(connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac")) or "")
    events, seq = find(connection, domain, selector), last_seq(connection)  # a seq that is deleted is never given again
    rows = [r for some in _chunks(events) for r in connection.execute(
        select(t.learned.c.id, t.learned.c.head, t.learned.c.target, t.learned.c.born, t.learned.c.holdout)
        .where(t.learned.c.event.in_(some)))]
    entries = sum(chain.destroy_salts(connection, some) for some in _chunks(events))
    counts = _delete(connection, events, [r.id for r in rows])
    if rows:  # what was evicted since, went for one row more than there are now, and what was tested since knew of it
        bounds.cut(connection, domain, first := min(r.born for r in rows))
        tested.cut(connection, domain, first)
    _empty(connection, events, key)
    orphans = _orphans(connection, domain, {(r.head, r.target) for r in rows})
    _take_from_answers(connection, domain, orphans)
    _take_from_changes(connection, domain, orphans)
    if orphans:
        _take_from_trials(connection, domain)
    marks = _mark_versions(connection, domain, rows, bool(orphans))
    if events:
        connection.execute(delete(t.store).where(t.store.c.key == "status"))  # figures and verdicts of before
    asked = selector.kept(lambda kind, value: token(key, kind, value))
    certificate = {"asked": asked, "removed": counts, "entries": entries, "labels_gone": len(_each(orphans) & orphans),
                   "versions": marks["versions"], "backups": _copies(connection, events, "backup", "file"),
                   "exports": _copies(connection, events, "export", "to"),
                   "outputs": outbox.holders(connection) if events else []}
    action = _history(connection, domain, seq, reason, actor, certificate)
    if events:
        _note(connection, domain, marks["files"], action)
    return Erased(domain=domain, events=events, rows=[(r.id, r.head, r.target) for r in rows], action=action)


def find(connection: Connection, domain: int, selector: Selector) -> list[int]:
    """Return the seqs of the events that are selected, those that were forgotten before left out."""
    here = and_(t.event.c.domain == domain, t.event.c.source != t.FORGOTTEN)
    found = [int(r.seq) for r in connection.execute(_selected(selector).where(here).order_by(t.event.c.seq))]
    if selector.kind == "event" and not found:
        known = select(t.event.c.seq).where(t.event.c.domain == domain, t.event.c.id == selector.value)
        if connection.scalar(known) is None:
            raise NotFound(f"no event {selector.value!r} in this domain", field="event",
                           hint="use the id from a receipt or an answer")
    return found


def _selected(selector: Selector) -> Select[tuple[int]]:
    query = select(t.event.c.seq)
    if selector.kind == "since":
        query = query.where(t.event.c.received >= selector.value)
        return query if selector.until is None else query.where(t.event.c.received < selector.until)
    if selector.kind == "label":
        taught = select(t.learned.c.event).where(t.learned.c.target == selector.value)
        given = select(t.label.c.event).where(t.label.c.label == canonical(selector.value))
        return query.where(or_(t.event.c.seq.in_(taught), t.event.c.seq.in_(given)))
    column = {"event": t.event.c.id, "source": t.event.c.source, "subject": t.event.c.subject}[selector.kind]
    return query.where(column == selector.value)


def _delete(connection: Connection, events: Sequence[int], rows: Sequence[int]) -> Counts:
    """Delete what hangs on the events, children first; return how many of each."""
    counts: Counts = {"event": len(events)}
    of_rows, of_events = (t.death, t.eviction, t.tested), (t.learned, t.label, t.vector, t.prediction)
    for column, keys in (*((table.c.row, rows) for table in of_rows), *((table.c.event, events) for table in of_events)):
        gone = sum(connection.execute(delete(column.table).where(column.in_(some))).rowcount for some in _chunks(keys))
        counts[column.table.name] = gone
    counts["blob"] = sum(blobs.drop(connection, some) for some in _chunks(events))
    return counts


def _empty(connection: Connection, events: Sequence[int], key: bytes) -> None:
    """Empty the events' rows; of the client's id an HMAC stays."""
    for some in _chunks(events):
        query = select(t.event.c.seq, t.event.c.source, t.event.c.key).where(t.event.c.seq.in_(some))
        values = [{"s": r.seq, "k": None if r.key is None else token(key, r.source, r.key)} for r in connection.execute(query)]
        connection.execute(
            update(t.event).where(t.event.c.seq == bindparam("s")).values(
                key=bindparam("k"), source=t.FORGOTTEN, digest=b"", content=b"", payload="null", answer=None, subject=None,
                time=None), values)


def _copies(connection: Connection, events: Sequence[int], what: str, where: str) -> list[str]:
    """Return the backups or exports that may hold one of the events: they are not altered."""
    made = [json.loads(detail) for detail in connection.execute(
        select(t.action.c.detail).where(t.action.c.what == what).order_by(t.action.c.id)).scalars()]
    return list(dict.fromkeys(one[where] for one in made if events and one["seq"] >= events[0]))


def _orphans(connection: Connection, domain: int, targets: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the labels and sets of labels of which no row is left, in any lineage."""
    left = {(r.head, r.target) for r in connection.execute(
        select(t.learned.c.head, t.learned.c.target).where(t.learned.c.domain == domain).distinct())} if targets else set()
    gone = targets - left
    return gone | (_each(gone) - _each(left))


def _each(targets: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Take sets of labels apart."""
    return {(head, label) for head, target in targets for label in named(target)}


def _take_from_answers(connection: Connection, domain: int, orphans: set[tuple[str, str]]) -> None:
    """Take labels that have gone out of the answers that other events were given."""
    query = select(t.prediction.c.id, t.prediction.c.labels).join(t.event, t.event.c.seq == t.prediction.c.event)
    for head, label in orphans:
        kind = label[2:] if label.startswith("B-") else None  # of spans, where the head tags words
        text = canonical(SHORTENED.sub("", label))[1:-1]  # as JSON has it; of a long one, which is answered whole, its beginning
        stored = or_(*(t.prediction.c.labels.contains(one, autoescape=True) for one in (text, label, kind) if one))
        for r in connection.execute(query.where(t.event.c.domain == domain, stored)).all():
            labels = json.loads(r.labels)
            answer = labels.get(head)
            if said(answer) == label or (isinstance(answer, list) and label in answer) or (
                    isinstance(answer, dict) and any(one["type"] == kind for one in answer["spans"])):
                new = canonical({**labels, head: None})
                connection.execute(update(t.prediction).where(t.prediction.c.id == r.id).values(labels=new))


def _take_from_changes(connection: Connection, domain: int, orphans: set[tuple[str, str]]) -> None:
    """Take the words of changes that name labels that have gone out of the history."""
    query = select(t.action.c.id, t.action.c.detail).where(t.action.c.domain == domain, t.action.c.what == DRIFT)
    for r in connection.execute(query).all() if orphans else ():
        told = json.loads(r.detail)
        named = (told.get("label"), told.get("origin"), *told.get("contradicted", ()))
        if {(told.get("head"), label) for label in named} & orphans:
            connection.execute(update(t.action).where(t.action.c.id == r.id).values(reason=REMOVED, detail="{}"))


def _take_from_trials(connection: Connection, domain: int) -> None:
    """Take the words of trials of weak labels, which may name a label, out of the history."""
    query = select(t.action.c.id, t.action.c.detail).where(t.action.c.domain == domain, t.action.c.what.in_(TRIALS))
    for r in connection.execute(query).all():
        detail = canonical({**json.loads(r.detail), "evidence": {}})
        connection.execute(update(t.action).where(t.action.c.id == r.id).values(reason=REMOVED, detail=detail))


def _history(connection: Connection, domain: int, seq: int, reason: str, actor: str, certificate: Mapping[str, Any]) -> int:
    versions = certificate["versions"]
    act(connection, seq, domain, "forget", actor, reason, before=versions["before"], after=versions["live"], detail=certificate)
    return int(connection.scalar(select(func.max(t.action.c.id))) or 0)


# -- versions -------------------------------------------------------------------------------------------------


def _mark_versions(connection: Connection, domain: int, rows: Sequence[Any], nameless: bool) -> dict[str, Any]:
    """Retire versions whose adapter was trained on a row, take figures and solved heads from those that held one.

    `nameless`: labels have gone, so judgements that may name them go too.
    """
    known = registry.versions(connection, domain)
    tainted = _tainted(connection, known, rows)
    files: list[str] = []
    retired: list[int] = []
    resolved: list[int] = []
    for one in known:
        saw = any(digest in tainted for digest in one.files.values())
        if not saw and not _held(rows, lineage(connection, one.branch, one.seq)):
            continue
        gone = [name for name in one.files if saw or name.endswith(".head")]
        files += [f"{one.number}/{name}" for name in gone]
        (retired if saw else resolved).append(one.number)
        kept: dict[str, Any] = {name: one.metrics[name] for name in KEPT if name in one.metrics}
        if registry.was_live(one):
            kept["resolved"] = True
        values = {"files": canonical({name: digest for name, digest in one.files.items() if name not in gone}),
                  "metrics": canonical(kept | ({"retired": RETIRED} if saw or one.metrics.get("retired") else {}))}
        connection.execute(update(t.version).where(t.version.c.number == one.number).values(**values))
        if nameless:
            _take_words(connection, one)
    moved = _move_pointer(connection, domain)
    return {"files": files, "versions": {"retired": retired, "resolved": resolved, **moved}}


def _tainted(connection: Connection, known: Sequence[registry.Version], rows: Sequence[Any]) -> set[str]:
    """Return the digests of the adapters that were trained on one of the rows, or began from one that was.

    A row counts where it was born in the lineage that was trained on; held-out rows have no gradient.
    """
    trained_on = [r for r in rows if not r.holdout]
    tainted: set[str] = set()
    for one in known:  # oldest first: what an adapter began from comes before it
        if one.kind == "candidate":
            trained = one.metrics.get("trained") or {"branch": one.branch, "seq": one.seq, "from": []}
            if tainted & set(trained["from"]) or _held(trained_on, lineage(connection, trained["branch"], trained["seq"])):
                tainted |= {digest for name, digest in one.files.items() if name.endswith(".adapter")}
    return tainted


def _held(rows: Sequence[Any], intervals: Sequence[Interval]) -> bool:
    return any(low < r.born <= high for r in rows for low, high in intervals)


def _take_words(connection: Connection, one: registry.Version) -> None:
    """Take the words of a judgement that may name a label: in the version, and in its history."""
    if one.verdict is not None:
        verdict = canonical({"decision": one.verdict["decision"], "reasons": [REMOVED], "evidence": {}})
        connection.execute(update(t.version).where(t.version.c.number == one.number).values(verdict=verdict))
    told = and_(t.action.c.after == one.number, or_(t.action.c.what.startswith("verdict-"), t.action.c.what == "promote"))
    connection.execute(update(t.action).where(told).values(reason=REMOVED, detail="{}"))


def _move_pointer(connection: Connection, domain: int) -> dict[str, int]:
    """If the live adapter is retired, let the newest one that did not see a forgotten record answer; rows stay."""
    live, known = registry.live(connection, domain), registry.versions(connection, domain)
    number = _answering(known, live.version, {one.number for one in known if one.metrics.get("retired")})
    if number != live.version:
        connection.execute(update(t.live).where(t.live.c.domain == domain).values(version=number, since=time.time()))
    return {"before": live.version, "live": number}


def _answering(known: Sequence[registry.Version], live: int, retired: set[int]) -> int:
    """Return the version that answers when some are retired: the live one, else the newest that was live or saved."""
    if live not in retired:
        return live
    encoder = next(one.encoder for one in known if one.number == live)
    return [one.number for one in known if one.number not in retired and one.encoder == encoder
            and registry.EXPIRED not in one.metrics and (one.kind != "candidate" or registry.was_live(one))][-1]


def successor(connection: Connection, domain: int, events: Sequence[int]) -> int:
    """Return the version whose adapter would answer if events were forgotten; nothing is changed."""
    rows = [r for some in _chunks(events) for r in connection.execute(
        select(t.learned.c.born, t.learned.c.holdout).where(t.learned.c.event.in_(some)))]
    known = registry.versions(connection, domain)
    tainted = _tainted(connection, known, rows)
    retired = {one.number for one in known
               if one.metrics.get("retired") or any(digest in tainted for digest in one.files.values())}
    return _answering(known, registry.live(connection, domain).version, retired)


# -- beside the transaction -----------------------------------------------------------------------------------


def _note(connection: Connection, domain: int, files: Sequence[str], action: int) -> None:
    """Note what is still to be done, with what an earlier forget has left undone."""
    earlier = pending(connection, domain) or {"files": [], "actions": []}
    value = canonical({"files": [*earlier["files"], *files], "actions": [*earlier["actions"], action]})
    done(connection, domain)
    connection.execute(insert(t.store).values(key=_key(domain), value=value))


def pending(connection: Connection, domain: int) -> dict[str, Any] | None:
    """Return what a forget has left to do: files to remove, history lines whose certificate lacks its checks."""
    value = connection.scalar(select(t.store.c.value).where(t.store.c.key == _key(domain)))
    return None if value is None else dict(json.loads(value))


def done(connection: Connection, domain: int) -> None:
    """Strike the note: nothing is left to do."""
    connection.execute(delete(t.store).where(t.store.c.key == _key(domain)))


def _key(domain: int) -> str:
    return f"forget:{domain}"


def remove_files(paths: Paths, name: str, files: Sequence[str]) -> int:
    """Remove the versions' files that are noted and the domain's checkpoints, which are made again; return how many."""
    there = [paths.versions / file for file in files if (paths.versions / file).exists()]
    for file in there:
        file.unlink()
    registry.withdraw(paths.checkpoints / name)
    return len(there)


def left(connection: Connection, domain: int) -> Counts:
    """Count what the tables still hold of forgotten events: the certificate's check, all zeros."""
    gone = select(t.event.c.seq).where(t.event.c.domain == domain, t.event.c.source == t.FORGOTTEN)
    full = and_(t.event.c.seq.in_(gone), or_(t.event.c.payload != "null", t.event.c.answer.is_not(None),
                                             t.event.c.subject.is_not(None), func.length(t.event.c.content) > 0))
    counts = {"event": int(connection.scalar(select(func.count()).select_from(t.event).where(full)) or 0)}
    salted = select(func.count()).select_from(t.chain).where(t.chain.c.seq.in_(gone), t.chain.c.salt.is_not(None))
    counts["chain"] = int(connection.scalar(salted) or 0)
    without = t.tested.c.row.not_in(select(t.learned.c.id))
    counts["tested"] = int(connection.scalar(select(func.count()).select_from(t.tested).where(without)) or 0)
    alone = t.blob.c.digest.not_in(select(t.attached.c.digest))
    counts["blob"] = int(connection.scalar(select(func.count()).select_from(t.blob).where(alone)) or 0)
    for table in (t.attached, t.learned, t.label, t.vector, t.prediction):
        query = select(func.count()).select_from(table).where(table.c.event.in_(gone))
        counts[table.name] = int(connection.scalar(query) or 0)
    return counts


def certify(connection: Connection, actions: Sequence[int], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Add the checks to the certificates in the history; return the newest, with who, when and why."""
    found: dict[str, Any] = {}
    for action in actions:
        row = connection.execute(select(t.action).where(t.action.c.id == action)).one()
        detail = {**json.loads(row.detail), "checks": checks}
        connection.execute(update(t.action).where(t.action.c.id == action).values(detail=canonical(detail)))
        found = {"certificate": action, "at": row.at, "actor": row.actor, "reason": row.reason, **detail}
    return found


def _chunks(keys: Sequence[int]) -> Iterator[Sequence[int]]:
    return (keys[start:start + 500] for start in range(0, len(keys), 500))
