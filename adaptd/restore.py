"""Restore: from the store to the state that answers, at start; and the checkpoints that make it quick.

The state at a start is (rows alive at a base, folds at that base) + the journal's tail behind it. The base is the
newest checkpoint of the live branch, else the live version. What is missing or damaged is made again from the
rows; nothing here is truth.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from sqlalchemy import Connection, Engine, and_, select
from torch import Tensor

from adaptd import registry
from adaptd import tables as t
from adaptd.errors import CorruptFile, Refused
from adaptd.learn import State
from adaptd.metrics import Outcomes
from adaptd.model import files
from adaptd.model.memory import NewRows
from adaptd.model.network import Head
from adaptd.moments import HEAD
from adaptd.registry import Version
from adaptd.rows import Interval, alive, births, lineage
from adaptd.vectors import Vectors

log = logging.getLogger(__name__)
KEPT = 2  # checkpoints per domain
Report = Callable[[str, str, str], None]  # code, message, hint


class Encoded(Protocol):
    """Where vectors come from that a row has none of."""

    @property
    def encoder_id(self) -> int:
        """The encoder whose vectors are wanted."""
        ...

    def __call__(self, events: Sequence[int]) -> dict[int, Tensor]:
        """Return the vectors of events, by seq."""
        ...


@dataclass(frozen=True, kw_only=True)
class Base:
    """Where a state begins: a version or a checkpoint; the journal's tail follows after `seq`."""

    version: Version
    intervals: Sequence[Interval]  # of the live lineage, up to the base
    seq: int
    folder: Path | None = None
    facts: Mapping[str, Any] | None = None
    digests: Mapping[str, str] | None = None


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
    """Choose the base of a domain's live state."""
    for candidate in sorted(folder.glob("[0-9]*"), key=lambda p: -int(p.name)):
        try:
            manifest = json.loads((candidate / "manifest.json").read_text())
            facts = manifest["facts"]
            if (facts["branch"], facts["encoder"], facts["version"]) == (live.branch, encoder, version.number):
                # sums and keys can be made again; what the heads folded only by the journal's tail
                registry.read(candidate, {name: d for name, d in manifest["files"].items() if name.endswith(HEAD)})
                return Base(version=version, intervals=lineage(connection, live.branch, facts["seq"]), seq=facts["seq"],
                            folder=candidate, facts=facts, digests=manifest["files"])
        except (OSError, ValueError, KeyError, TypeError, CorruptFile):
            report("corrupt_checkpoint", f"checkpoint {candidate.name} was refused and its state made again from the journal",
                   "nothing was lost")
    seq = version.seq if version.branch == live.branch else \
        int(connection.execute(select(t.branch.c.start).where(t.branch.c.id == live.branch)).scalar_one())
    return Base(version=version, intervals=lineage(connection, live.branch, seq), seq=seq)


def load_state(connection: Connection, domain: int, base: Base, version_files: Mapping[str, bytes],
               heads: dict[str, Head], vectors: Vectors, report: Report) -> State:
    """Build the state at a base. The ridge may be behind it; the learner solves it."""
    state = State(version=base.version.number, seq=base.seq, heads=heads)
    stored = _checkpoint_files(base, report)
    born = births(connection, domain, base.intervals)
    for name, head in heads.items():
        mine = [r for r in born if r.head == name]
        if f"{name}.adapter" in version_files:
            head.adapter = files.parse_adapter(version_files[f"{name}.adapter"], f"version {base.version.number}")
        answering = stored.get(f"{name}.head", version_files.get(f"{name}.head") if base.folder is None else None)
        if answering is not None:
            head.load_head(answering, name, solved=base.folder is not None or base.version.solved)
        head.set_labels(list(dict.fromkeys([*head.labels, *(r.target for r in mine)])))
        rows = alive_rows(connection, domain, base.intervals, name, head, vectors)
        statistics = files.parse(stored[f"{name}.sums"], name) if f"{name}.sums" in stored else None
        head.restore(rows, statistics, stored.get(f"{name}.keys"))
        head.learned = len(mine)
        rank = {r.id: place for place, r in enumerate(mine)}  # dead rows of other lineages have none
        head.memory.order[:head.memory.size] = [rank.get(row, 0) for row in head.memory.ids[:head.memory.size].tolist()]
        head.fold.expect(head.adapter.prior)
    folds = (base.facts or base.version.metrics).get("folds")
    if folds:
        load_folds(state, folds)
    return state


def load_folds(state: State, folds: Mapping[str, Any]) -> None:
    """Take over the metrics of a base."""
    state.prequential, state.progressive = Outcomes.of(folds["prequential"]), Outcomes.of(folds["progressive"])
    state.per_label = {label: list(tally) for label, tally in folds["per_label"].items()}


def folds(state: State) -> dict[str, Any]:
    """Return the metrics of a state, for a version or a checkpoint."""
    return {"prequential": state.prequential.facts(), "progressive": state.progressive.facts(), "per_label": state.per_label}


def alive_rows(connection: Connection, domain: int, intervals: Sequence[Interval], name: str, head: Head,
               vectors: Encoded, only: set[int] | None = None) -> NewRows:
    """Read the rows of a head that are alive in a lineage, with their vectors (encoded now where there are none)."""
    query = alive(domain, intervals).where(t.learned.c.head == name)
    joined = query.add_columns(t.vector.c.data).outerjoin(
        t.vector, and_(t.vector.c.event == t.learned.c.event, t.vector.c.part == t.learned.c.part,
                       t.vector.c.encoder == vectors.encoder_id))
    found = [r for r in connection.execute(joined) if only is None or r.id in only]
    matrix = torch.empty(len(found), head.options.dim, dtype=torch.float16)
    missing = vectors([r.event for r in found if r.data is None])
    for place, r in enumerate(found):
        matrix[place] = missing[r.event] if r.data is None else torch.frombuffer(bytearray(r.data), dtype=torch.float16)
    return NewRows(ids=[r.id for r in found], events=[r.event for r in found], born=[r.born for r in found],
                   targets=[head.class_of(r.target) for r in found], sources=[r.source for r in found],
                   contents=[r.content for r in found], holdout=[bool(r.holdout) for r in found], vectors=matrix)


def alive_ids(reader: Engine, domain: int, intervals: Sequence[Interval]) -> set[int]:
    """Return the ids of the rows that are alive in a lineage."""
    query = alive(domain, intervals).with_only_columns(t.learned.c.id).order_by(None)
    with reader.connect() as connection:
        return set(connection.execute(query).scalars())


def _checkpoint_files(base: Base, report: Report) -> dict[str, bytes]:
    """Read the checkpoint's files; each that is damaged is left out, and made again."""
    found: dict[str, bytes] = {}
    for name, digest in (base.digests or {}).items():
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
    registry.publish(folder / str(state.seq), contents, facts)
    others = [path for path in folder.glob("[0-9]*") if path.name != str(state.seq)]  # a rollback goes back in seq
    for old in sorted(others, key=lambda p: -int(p.name))[KEPT - 1:]:
        shutil.rmtree(old, ignore_errors=True)
