"""Restore: from the store to the state that answers, at start; and the checkpoints that make it quick.

The state at a start is (rows alive at a base, folds at that base) + the journal's tail behind it. The base is the
newest checkpoint of the live branch, else the live version. What is missing or damaged is made again from the
rows; nothing here is truth.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sqlalchemy import Connection, and_, select
from torch import Tensor

from adaptd import registry, relearn, tested
from adaptd import tables as t
from adaptd.config import Quarantine
from adaptd.drift import Drift
from adaptd.errors import CorruptFile, Refused
from adaptd.history import last_seq
from adaptd.metrics import Comparison, Outcomes
from adaptd.model import files
from adaptd.model.bounded import Columns, evicted_rows
from adaptd.model.evicted import packed
from adaptd.model.fold import Fold
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, Shadow
from adaptd.moments import ADAPTER, HEAD
from adaptd.quarantine import Suspicion
from adaptd.records import Learned, Report, place
from adaptd.registry import Version
from adaptd.rows import FOREVER, Interval, Standing, after, alive, evicted, labels, lineage, replay, retaught, standing
from adaptd.sequential import Trial
from adaptd.state import State
from adaptd.tested import Kept

log = logging.getLogger(__name__)
KEPT = 2  # checkpoints per domain
PART, BY_ID = 500, 10_000  # rows that are read at once; and how many are asked for by their ids, before all are read
TRIAL_ENDS = ("rollback", "repair", "demote", "probation-passed")  # beside another promotion, and a forget


class Encoded(Protocol):
    """Where vectors come from that a row has none of."""

    @property
    def encoder_id(self) -> int:
        """The encoder whose vectors are wanted."""
        ...

    def __call__(self, places: Sequence[int]) -> dict[int, Tensor]:
        """Return the vectors of places, by these."""
        ...


@dataclass(frozen=True, kw_only=True)
class Base:
    """Where a state begins: a version or a checkpoint; the journal's tail follows after `seq`."""

    version: Version
    intervals: Sequence[Interval]  # of the live lineage, up to the base
    seq: int
    own: bool  # these are the version's own rows: its heads and folds are for them
    folder: Path | None = None
    facts: Mapping[str, Any] | None = None
    heads: Mapping[str, bytes] = field(default_factory=dict)  # a checkpoint's, read
    digests: Mapping[str, str] = field(default_factory=dict)  # of its other files, which are not


def sound(connection: Connection, number: int, versions: Path, report: Report) -> tuple[Version, dict[str, bytes]]:
    """Return the version with its checked files, or its newest sound ancestor."""
    current = registry.version(connection, number)
    while True:
        try:
            registry.check_kept(current)
            return current, registry.read(versions / str(current.number), current.files)
        except (CorruptFile, Refused) as error:
            report("corrupt_version", f"version {current.number} was refused: {error.message}",
                   "adaptd rollback to a sound version; the files are kept for a look")
            if current.parent is None:
                return current, {}
            current = registry.version(connection, current.parent)
            while current.metrics.get("retired") and current.parent is not None:
                current = registry.version(connection, current.parent)


def find_base(connection: Connection, live: registry.Live, version: Version, folder: Path, encoder: str, report: Report) -> Base:
    """Choose the base of a domain's live state; remove checkpoints of what the journal has lost: its seqs are given again."""
    newest = last_seq(connection)
    for candidate in sorted(folder.glob("[0-9]*"), key=lambda p: -int(p.name)):
        try:
            manifest = json.loads((candidate / "manifest.json").read_text())
            facts = manifest["facts"]
            if facts["seq"] > newest:
                report("orphan_checkpoint", f"checkpoint {candidate.name} is of entries that the journal lacks, and was removed",
                       "the database lost its newest part; restore a backup if it should be there")
                registry.withdraw(candidate)
            elif (facts["branch"], facts["encoder"], facts["version"]) == (live.branch, encoder, version.number):
                # sums and keys can be made again; what the heads folded only by the journal's tail
                files: dict[str, str] = manifest["files"]
                heads = registry.read(candidate, {name: digest for name, digest in files.items() if name.endswith(HEAD)})
                return Base(version=version, intervals=lineage(connection, live.branch, facts["seq"]), seq=facts["seq"],
                            own=False, folder=candidate, facts=facts, heads=heads,
                            digests={name: digest for name, digest in files.items() if name not in heads})
        except (OSError, ValueError, KeyError, TypeError, CorruptFile):
            report("corrupt_checkpoint", f"checkpoint {candidate.name} was refused and its state made again from the journal",
                   "nothing was lost")
    seq = version.seq if version.branch == live.branch else \
        int(connection.execute(select(t.branch.c.start).where(t.branch.c.id == live.branch)).scalar_one())
    intervals = lineage(connection, live.branch, seq)
    own = intervals == lineage(connection, version.branch, version.seq)  # not where a forget or a repair moved the pointer
    return Base(version=version, intervals=intervals, seq=seq, own=own)


def load_state(connection: Connection, domain: int, base: Base, version_files: Mapping[str, bytes],
               heads: dict[str, Head], vectors: Encoded, rule: Quarantine, report: Report) -> State:
    """Build the state at a base. The ridge may be behind it; the learner solves it."""
    state = State(version=base.version.number, seq=base.seq, heads=heads)
    with ThreadPoolExecutor(1) as aside:  # of many rows, reading these files takes as long as reading the rows
        reading = aside.submit(_checkpoint_files, base, report)
        for name, head in heads.items():
            _load_head(connection, domain, base, version_files, name, head, vectors, reading)
    if found := folds_at(base):
        load_folds(state, found)
    if base.own:
        fold_on(connection, state, domain, base.intervals, base.version.folded, vectors.encoder_id, rule)
    return state


def _load_head(connection: Connection, domain: int, base: Base, version_files: Mapping[str, bytes], name: str, head: Head,
               vectors: Encoded, reading: Future[dict[str, bytes]]) -> None:
    stand = standing(connection, domain, base.intervals, name)
    if f"{name}.adapter" in version_files:
        head.adapter = files.parse_adapter(version_files[f"{name}.adapter"], f"version {base.version.number}")
    answering = base.heads.get(f"{name}.head", version_files.get(f"{name}.head") if base.own else None)
    if answering is not None:
        head.load_head(answering, name, solved=base.folder is not None or base.version.solved)
    head.set_labels(list(dict.fromkeys([*head.labels, *labels(connection, domain, base.intervals, name)])))
    rows = alive_rows(connection, domain, base.intervals, name, head, vectors, stand)
    gone = evicted_columns(connection, domain, base.intervals, name, head)
    stored = reading.result()
    statistics = files.parse(stored[f"{name}.sums"], name) if f"{name}.sums" in stored else None
    head.restore(rows, statistics, stored.get(f"{name}.keys"), gone)
    head.age(stand.born)
    head.trace(retaught(connection, domain, base.intervals, name))
    head.fold.expect(head.adapter)


def folds_at(base: Base) -> Mapping[str, Any] | None:
    """Return the metrics that are kept of a base's own rows; None where there are none."""
    if base.facts is not None:
        return base.facts.get("folds")
    return base.version.metrics.get("folds") if base.own else None


def trial(connection: Connection, domain: int, base: Base, heads: Mapping[str, Head], versions: Path, encoder: str,
          report: Report) -> Trial | None:
    """Return the trial that goes on, with its counts at a base; None when the newest promotion is not on probation."""
    promotion = _promotion(connection, domain)
    promoted = None if promotion is None else registry.version(connection, promotion.after)
    if promoted is None or promoted.parent is None or promoted.encoder != encoder:
        return None
    old = registry.version(connection, promoted.parent)
    changed = [name for name, head in heads.items() if not head.options.generates  # texts are not written twice
               and old.files.get(f"{name}{ADAPTER}") != promoted.files.get(f"{name}{ADAPTER}")]
    if not changed:
        return None
    try:
        contents = registry.read(versions / str(old.number), {file: digest for file, digest in old.files.items()
                                                              if file.removesuffix(ADAPTER).removesuffix(HEAD) in changed})
        shadows = {name: _shadow(contents[f"{name}{ADAPTER}"], contents[f"{name}{HEAD}"]) for name in changed}
    except (CorruptFile, KeyError) as error:
        report("probation_ended", f"version {promoted.number} is on probation no more: {error}",
               "nothing shadows it; adaptd rollback if it does badly")
        return None
    found = Trial(version=promoted.number, champion=old.number, began=promotion.at, shadows=shadows)
    found.go_on(((base.facts or base.version.metrics).get("folds") or {}).get("trial"))
    return found


def _shadow(adapter: bytes, head: bytes) -> Shadow:
    """Return what a version answered with, as it was then: what it would have learned since from outcomes is not kept."""
    tensors, facts = files.parse(head, "the old champion")
    fold = Fold()
    fold.load(tensors["trust"], tensors["trust_at"], facts, tensors.get("recent"))
    return Shadow(files.parse_adapter(adapter, "the old champion"), fold)


def _promotion(connection: Connection, domain: int) -> Any:
    """Return the history's line of the newest promotion, unless a later line ended its probation."""
    about = (t.action.c.domain == domain, t.action.c.what.in_((*TRIAL_ENDS, "promote", "forget")))
    for line in connection.execute(select(t.action).where(*about).order_by(t.action.c.id.desc())):
        if line.what != "forget" or json.loads(line.detail)["removed"]["event"]:  # one that found nothing ended nothing
            return line if line.what == "promote" else None
    return None


def load_folds(state: State, folds: Mapping[str, Any]) -> None:
    """Take over the metrics of a base."""
    state.prequential, state.progressive = Outcomes.of(folds["prequential"]), Outcomes.of(folds["progressive"])
    state.per_label = {label: list(tally) for label, tally in folds["per_label"].items()}
    state.incumbent = Comparison.of(folds["incumbent"]) if "incumbent" in folds else Comparison()
    state.suspicion = Suspicion.of(folds.get("suspicion"))  # versions of before it have none
    state.drift = Drift.of(folds.get("drift"))


def tail(connection: Connection, domain: int, branch: int, seq: int, encoder: int) -> tuple[Sequence[Learned], Kept]:
    """Return what the journal taught on a branch behind a seq, and what is kept of what that told."""
    intervals = lineage(connection, branch)
    entries, found = replay(connection, domain, intervals, seq), tested.behind(connection, domain, intervals, seq, encoder)
    if not found:
        return entries, Kept()
    changes = relearn.changes(connection, domain, after(intervals, seq))
    return entries, Kept(through=found[-1][0].born, told={row.id: told for row, told in found}, changes=deque(changes))


def fold_on(connection: Connection, state: State, domain: int, intervals: Sequence[Interval], seq: int, encoder: int,
            rule: Quarantine) -> None:
    """Fold what the labels of a lineage told that came behind a seq: a moment's folds are an earlier version's."""
    found = tested.behind(connection, domain, intervals, seq, encoder)
    changes = deque(relearn.changes(connection, domain, after(intervals, seq)) if found else ())
    for row, told in found:
        state.begin_anew(changes, row.born)
        state.follow(row, told, rule)
    state.begin_anew(changes, FOREVER)


def folds(state: State) -> dict[str, Any]:
    """Return the metrics of a state, for a version or a checkpoint."""
    return {"prequential": state.prequential.facts(), "progressive": state.progressive.facts(), "per_label": state.per_label,
            "incumbent": state.incumbent.facts(), "trial": None if state.trial is None else state.trial.facts(),
            "suspicion": state.suspicion.facts(), "drift": state.drift.facts()}


def alive_rows(connection: Connection, domain: int, intervals: Sequence[Interval], name: str, head: Head,
               vectors: Encoded, wanted: Standing | Collection[int]) -> NewRows:
    """Read rows of a head, with vectors (encoded now where there are none): alive ones by id, or all that are retrievable."""
    only = None if isinstance(wanted, Standing) else set(wanted)
    room = len(wanted.alive) - len(wanted.evicted) if isinstance(wanted, Standing) else len(wanted)
    query = alive(domain, intervals).where(t.learned.c.head == name)
    query = query.where(~evicted(intervals)) if only is None else query
    kept = (t.learned.c.id, place(t.learned.c.event, t.learned.c.part).label("place"), t.learned.c.born, t.learned.c.target,
            t.learned.c.source, t.event.c.content, t.learned.c.holdout)
    joined = query.with_only_columns(*kept, t.vector.c.data).outerjoin(
        t.vector, and_(t.vector.c.event == t.learned.c.event, t.vector.c.part == t.learned.c.part,
                       t.vector.c.encoder == vectors.encoder_id))
    columns: dict[str, list[Any]] = {column.name: [] for column in kept}
    matrix, done = torch.empty(room, head.options.dim, dtype=torch.float16), 0
    for some in _parts(connection, joined, only):
        for column, values in zip(columns.values(), zip(*some, strict=True), strict=False):  # the last one is the data
            column += values
        missing = vectors([r.place for r in some if r.data is None])
        data = b"".join(missing[r.place].numpy().tobytes() if r.data is None else r.data for r in some)
        matrix.numpy()[done:done + len(some)] = np.frombuffer(data, np.float16).reshape(len(some), -1)
        done += len(some)
    return NewRows(ids=columns["id"], events=columns["place"], born=columns["born"],
                   targets=[head.class_of(target) for target in columns["target"]], sources=columns["source"],
                   contents=columns["content"], holdout=[bool(one) for one in columns["holdout"]], vectors=matrix[:done])


def _parts(connection: Connection, query: Any, ids: set[int] | None) -> Iterator[Sequence[Any]]:
    """Run a query over learned rows, few at a time: for few ids by id, for many by reading all."""
    if ids is None or len(ids) > BY_ID:
        for some in connection.execute(query).partitions(PART):
            if wanted := [r for r in some if ids is None or r.id in ids]:
                yield wanted
        return
    every = sorted(ids)
    for start in range(0, len(every), PART):
        yield connection.execute(query.where(t.learned.c.id.in_(every[start:start + PART]))).all()


def evicted_columns(connection: Connection, domain: int, intervals: Sequence[Interval], name: str, head: Head) -> Columns:
    """Read what is kept in RAM of the rows of a head that are alive in a lineage and evicted."""
    found = connection.execute(alive(domain, intervals).where(t.learned.c.head == name, evicted(intervals))).all()
    return evicted_rows(found, head.class_of, packed([r.content for r in found]))


def _checkpoint_files(base: Base, report: Report) -> dict[str, bytes]:
    """Read the checkpoint's files; each that is damaged is left out, and made again."""
    found: dict[str, bytes] = {}
    for name, digest in base.digests.items():
        assert base.folder is not None
        try:
            found.update(registry.read(base.folder, {name: digest}))
        except CorruptFile as error:
            report("rebuilt", f"{error.message}; it is made again from the stored rows", "nothing was lost")
    return found


def write_checkpoint(folder: Path, domain: int, branch: int, encoder: str, state: State) -> None:
    """Write the state's checkpoint durably and drop older ones."""
    contents: dict[str, bytes] = {}
    for name, head in state.heads.items():
        contents[f"{name}.sums"], contents[f"{name}.keys"] = head.checkpoint()
        contents[f"{name}.head"] = head.dump()["head"]
    facts = {"branch": branch, "seq": state.seq, "encoder": encoder, "version": state.version, "folds": folds(state)}
    for left in folder.glob(".*"):
        shutil.rmtree(left)  # half of one, from a crash
    registry.publish(folder / str(state.seq), contents, facts)
    others = [path for path in folder.glob("[0-9]*") if path.name != str(state.seq)]  # a rollback goes back in seq
    for old in sorted(others, key=lambda p: -int(p.name))[KEPT - 1:]:
        registry.withdraw(old)
