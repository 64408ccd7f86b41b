"""Moments: the state between two versions, found in the journal and entered as a version, so that it can be restored.

Where: beside the registry, for the running daemon and for a stopped store; the model is never loaded. A moment
becomes a seq (everything in the store that had come by then), the branch and the version that were live then (from
the history of the pointer), and so a state. Of that state

- exact: the rows that were alive, their ages and the order of the labels; the adapters; the counts of the answers
  that were given (`prequential`, per label), folded forward over the journal;
- solved anew from those rows, with the same solver: the ridge, wherever labels came between the version and the
  moment; its scores differ in the last bits;
- folded on, where it is restored, from the nearest earlier version on the same line, by what every label told before it was
  learned (`adaptd.tested`): trust among the experts, temperature, limits, drift, suspicion, `progressive`. Of labels whose
  record a crash or a forget has taken, nothing is folded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from adaptd import registry
from adaptd import tables as t
from adaptd.clock import written
from adaptd.errors import BadPayload, CorruptFile, NotFound
from adaptd.metrics import Outcomes, count_answers
from adaptd.registry import Version
from adaptd.rows import answered_before, counts, first_labels, lineage, replay

FORKS = ("created", "rollback")  # what starts a branch
MOVES = (*FORKS, "snapshot", "promote", "demote", "repair", "forget")  # what may move the pointer
ADAPTER, HEAD = ".adapter", ".head"  # how a version's files end: what is trained, and what answers as it was solved


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What was live at a time."""

    at: float
    seq: int  # everything up to it had come
    branch: int
    version: Version


def find(connection: Connection, domain: int, at: float) -> Moment:
    """Return what was live in a domain at a time.

    Raises
    ------
    BadPayload
        It lies in the future.
    NotFound
        No event had come by then.
    """
    if not at <= time.time():
        raise BadPayload("that moment is in the future", field="at", hint="give one in the past, in seconds (not milliseconds)")
    first = connection.scalar(select(t.event.c.received).where(t.event.c.domain == domain).order_by(t.event.c.seq).limit(1))
    moves = _moves(connection, domain, at)
    if first is None or at < first or not moves:
        came = "no event has come yet" if first is None else f"the first event came at {written(first)}"
        raise NotFound(f"there was nothing to go back to at that moment: {came}", field="at",
                       hint="give a later moment, or a version with --to; adaptd history lists them")
    branches = connection.execute(select(t.branch).where(t.branch.c.domain == domain).order_by(t.branch.c.id)).all()
    place = sum(move.what in FORKS for move in moves)  # branches were started in the order of these lines
    ends = [branch.start for branch in branches[place:place + 1]]  # also where the clock was set back
    return Moment(at=at, seq=min([_seq(connection, at), *ends]), branch=branches[place - 1].id,
                  version=registry.version(connection, moves[-1].after))


def live_at(connection: Connection, domain: int, at: float) -> int | None:
    """Return the version that was live in a domain at a time."""
    moves = _moves(connection, domain, at)
    return int(moves[-1].after) if moves else None


def _moves(connection: Connection, domain: int, at: float) -> Sequence[Any]:
    """Return the history lines up to a time that say which version is live, oldest first."""
    return connection.execute(select(t.action.c.what, t.action.c.after).where(
        t.action.c.domain == domain, t.action.c.what.in_(MOVES), t.action.c.at <= at).order_by(t.action.c.id)).all()


def _seq(connection: Connection, at: float) -> int:
    """Return the newest seq that anything had which had come by then; looked for from the newest end."""
    columns = ((t.event.c.seq, t.event.c.received), (t.label.c.seq, t.label.c.received))
    found = [connection.scalar(select(seq).where(came <= at).order_by(seq.desc()).limit(1)) for seq, came in columns]
    acted = connection.scalar(select(t.action.c.seq).where(t.action.c.at <= at).order_by(t.action.c.id.desc()).limit(1))
    return max(seq or 0 for seq in [*found, acted])


def enter(connection: Connection, moment: Moment, folder: Path, number: int, actor: str,
          generating: AbstractSet[str] = frozenset()) -> Version:
    """Publish the files of a moment's version and return its row, which is not entered yet.

    Texts that heads of `generating` have are no labels to count by. `Version.solved` says whether its heads answer for its rows
    too. Raises what `contents_of` does.
    """
    live = moment.version
    base, contents = contents_of(connection, moment, folder)
    intervals = lineage(connection, moment.branch, moment.seq)
    tail = replay(connection, live.domain, intervals, base.seq)
    metrics = {**_metrics(connection, live.domain, base, intervals, tail, generating),
               "moment": {"at": moment.at, "base": base.number, "folded": base.seq, "behind": len(tail)},
               "trails": base.trails}
    return Version(number=number, domain=live.domain, kind="moment", parent=live.number, branch=moment.branch, seq=moment.seq,
                   encoder=live.encoder, config=live.config, files=registry.publish(folder / str(number), contents),
                   metrics=metrics, verdict=None, actor=actor, reason=f"as of {written(moment.at)}", created=time.time())


def contents_of(connection: Connection, moment: Moment, folder: Path) -> tuple[Version, dict[str, bytes]]:
    """Return a moment's files: the adapters that were live, the heads of the nearest earlier version; and that version.

    Raises
    ------
    CorruptFile
        The adapter that answered then does not match its digest.
    Refused
        It was trained on what was forgotten since.
    """
    live = moment.version
    registry.check_not_retired(live)
    adapters = {name: digest for name, digest in live.files.items() if name.endswith(ADAPTER)}
    found = registry.read(folder / str(live.number), adapters)
    base, heads = base_of(connection, moment, folder)
    return base, found | heads


def base_of(connection: Connection, moment: Moment, folder: Path) -> tuple[Version, dict[str, bytes]]:
    """Return the nearest version on a moment's line up to it that has sound heads, and these; at last the empty first one."""
    return next(_bases(connection, moment, folder))


def _bases(connection: Connection, moment: Moment, folder: Path) -> Iterator[tuple[Version, dict[str, bytes]]]:
    """Yield the versions on the moment's line up to it, the nearest first, each with its sound heads."""
    known = registry.versions(connection, moment.version.domain)
    branch: int | None = moment.branch
    seq = moment.seq
    while branch is not None:
        mine = [v for v in known if v.branch == branch and v.seq <= seq]
        for v in sorted(mine, key=lambda v: (v.seq, v.number == moment.version.number, v.number), reverse=True):
            heads = {name: digest for name, digest in v.files.items() if name.endswith(HEAD)}
            if (heads and v.solved and v.encoder == moment.version.encoder) or v.kind == "initial":
                try:
                    yield v, registry.read(folder / str(v.number), heads)
                except CorruptFile:
                    continue  # its folds are lost; those of an earlier one will do
        row = connection.execute(select(t.branch).where(t.branch.c.id == branch)).one()
        branch, seq = row.parent, min(seq, row.fork)


def _metrics(connection: Connection, domain: int, base: Version, intervals: Any, tail: Any,
             generating: AbstractSet[str]) -> dict[str, Any]:
    """Return the figures of a moment: the base's, with the answers counted that were judged since."""
    folds = base.metrics.get("folds") or {"prequential": Outcomes().facts(), "progressive": Outcomes().facts(), "per_label": {}}
    prequential = Outcomes.of(folds["prequential"])
    per_label = {label: list(tally) for label, tally in folds["per_label"].items()}
    judging = first_labels(tail)
    given = answered_before(connection, {row.event: row.born for row in judging})
    count_answers(prequential, per_label, judging, given, generating)
    heads = counts(connection, domain, intervals).values()
    return {"folds": {**folds, "prequential": prequential.facts(), "per_label": per_label},
            "prequential": prequential.accuracy, "labels": sum(map(len, heads)),
            "memory": sum(sum(labels.values()) for labels in heads)}
