"""Rebuild: make a version again from the journal, beside the store, and say whether it is the one that is there.

Reads a store, running or stopped, and changes nothing. A candidate is trained again, from the rows of its lineage as of
its seq, the adapter that it began from and its own recipe, whatever the configuration says today; its file has to have
the same digest. Any other version's adapter is that of the candidate that it came from. A solved head is solved again
over the rows as of the version's seq: labels and counts have to be equal, the ridge up to rounding, because the daemon
follows new rows by corrections and factorises when it has to. What a head folded (trust, temperature) hung on which
labels arrived together, which no journal tells: it is not compared.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, func, select
from torch import Tensor

from adaptd import offline, plugins, registry, restore, training
from adaptd import tables as t
from adaptd.config import DomainSettings
from adaptd.errors import Conflict, CorruptFile, Forgotten, TrainingFailed
from adaptd.heads import Classify, Generate
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import Head, HeadOptions
from adaptd.moments import ADAPTER, HEAD
from adaptd.paths import Paths
from adaptd.process import GivingWay
from adaptd.registry import Version
from adaptd.rows import labels, lineage, standing
from adaptd.stored import stored

ROUNDING = 1e-4  # of the ridge's largest weight
EQUAL, ROUNDED, DIFFERS = "equal", "equal up to rounding", "differs"
UNTRAINED = hashlib.sha256(files.dump_adapter(Adapter())).hexdigest()
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job that is written and waits to be run, and the file that it ought to give, where that is sound."""

    folder: Path
    candidate: Version
    stored: bytes | None
    limit_s: float


@dataclass(frozen=True, kw_only=True)
class Solving:
    """A head with its rows, to be solved, and what the store has of it."""

    head: Head
    stored: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def rebuild(paths: Paths, domain: str, number: int, now: DomainSettings, allow: Sequence[str]) -> Json:
    """Make a version again in a temporary folder and compare file by file; return the verdict with its figures.

    Raises
    ------
    NotFound
        There is no such version.
    Forgotten
        What it was made of was forgotten.
    Conflict
        The store lacks something that it was made of.
    """
    with tempfile.TemporaryDirectory(prefix="adaptd-rebuild-") as temporary:
        with offline.reading(paths, domain) as (connection, domain_id):
            version = registry.version(connection, number, domain_id)
            _check(version)
            made = Materials(connection, paths, version, domain, now, allow)
            work = {name: made.work(name, digest, Path(temporary) / name) for name, digest in version.files.items()}
        found = {name: _compared(name, version.files[name], one) for name, one in work.items()}
    match = all(one["verdict"] != DIFFERS for one in found.values())
    return {"version": number, "kind": version.kind, "verdict": "match" if match else DIFFERS, "files": found,
            **_made_with([one.candidate for one in work.values() if isinstance(one, Job)], now), "notes": made.notes}


def _check(version: Version) -> None:
    """Refuse a version of which nothing is left to make or to compare."""
    number = version.number
    if version.metrics.get("retired"):
        raise Forgotten(f"version {number} cannot be made again: {version.metrics['retired']}",
                        hint="adapt again for one that has learned the rest")
    if not version.files and "resolved" in version.metrics:
        raise Forgotten(f"version {number} has nothing to compare: its solved heads went with a record that was forgotten",
                        hint="the daemon solves them anew from what is left")
    registry.check_kept(version)


class Materials:
    """What a version is made of, read from the store."""

    def __init__(self, connection: Connection, paths: Paths, version: Version, domain: str, now: DomainSettings,
                 allow: Sequence[str]) -> None:
        self._connection = connection
        self._folder = paths.versions
        self._version = version
        self._now = now
        self._allow = allow
        kinds = plugins.collect(plugins.load("adaptd", allow), "register_domains")
        self._declared = plugins.domain(kinds, domain, now).heads
        self._known = registry.versions(connection, version.domain)
        lost = "resolved" in version.metrics
        self.notes = ["a record that it held was forgotten, and its solved heads with it"] if lost else []

    def work(self, name: str, digest: str, folder: Path) -> Job | Solving | bytes:
        """Return what makes a file of the version again: a job, a head, or the bytes where they are known."""
        head, kind = name.rpartition(".")[0], "." + name.rpartition(".")[2]
        if kind == HEAD:
            return self._solving(head, name, digest)
        assert kind == ADAPTER, name
        return files.dump_adapter(Adapter()) if digest == UNTRAINED else self._job(head, name, digest, folder)

    # -- adapters ---------------------------------------------------------------------------------------------

    def _job(self, head: str, name: str, digest: str, folder: Path) -> Job:
        """Write the job of the candidate whose training gave this adapter."""
        candidate = next((one for one in self._known if one.kind == "candidate" and one.files.get(name) == digest), None)
        trained = candidate.metrics.get("trained", {}) if candidate else {}
        if candidate is None or "recipe" not in trained:
            raise Conflict(f"the store does not say how {name} of version {self._version.number} was made",
                           hint="it is of an adaptd that did not keep it; candidates from now on can be made again")
        if trained["recipe"]["strategy"] == training.CONSOLIDATE:
            raise Conflict(f"{name} of version {self._version.number} is a consolidation, which is not made again",
                           hint="adaptd adapt --consolidate makes a new one; other versions can be rebuilt")
        if isinstance(self._declared.get(head), Generate):
            raise Conflict(f"{name} of version {self._version.number} is what a generator was trained to: it is not made again",
                           hint="adaptd adapt makes a new one; other versions can be rebuilt")
        filled = self._filled(head, candidate, lineage(self._connection, trained["branch"], trained["seq"]))
        tensors, away = training.rows(filled, trained["after"])
        away.read_into(tensors["vectors"])
        self._note_forgotten(trained["seq"])
        folder.mkdir(parents=True)
        training.write(folder, training.Recipe(**trained["recipe"]), tensors, filled.labels,
                       self._start(name, trained["from"][trained["heads"].index(head)]), seq=trained["seq"],
                       plugins=self._allow)
        return Job(folder=folder, candidate=candidate, stored=self._bytes(name, digest), limit_s=self._now.adapt.time_limit_s)

    def _start(self, name: str, digest: str) -> Adapter:
        """Return the adapter that a candidate began from."""
        if digest == UNTRAINED:
            return Adapter()
        if (data := self._bytes(name, digest)) is None:
            raise Conflict(f"the {name} that version {self._version.number} began from is gone", hint="a backup may have it")
        return files.parse_adapter(data, name)

    def _bytes(self, name: str, digest: str) -> bytes | None:
        """Return a file by its digest, from any version that has it whole."""
        for one in self._known:
            if one.files.get(name) == digest:
                try:
                    return registry.read(self._folder / str(one.number), {name: digest})[name]
                except CorruptFile:
                    self.notes.append(f"{name} of version {one.number} is damaged on the disk")
        return None

    def _note_forgotten(self, seq: int) -> None:
        gone = self._connection.scalar(select(func.count()).select_from(t.event).where(
            t.event.c.domain == self._version.domain, t.event.c.source == t.FORGOTTEN, t.event.c.seq <= seq))
        if gone:
            self.notes.append(f"{gone} events of its time were forgotten since; none of them had trained it")

    # -- heads ------------------------------------------------------------------------------------------------

    def _solving(self, head: str, name: str, digest: str) -> Solving:
        """Fill a head with the rows that the version was solved over."""
        tensors, facts = files.parse(registry.read(self._folder / str(self._version.number), {name: digest})[name], name)
        of = self._solved_by()
        filled = self._filled(head, of, lineage(self._connection, of.branch, of.seq), facts["features"])
        return Solving(head=filled, stored=tensors, facts=facts)

    def _solved_by(self) -> Version:
        """Return the version whose rows the heads were solved over: a moment has them of an earlier one."""
        base = self._version.metrics.get("moment", {}).get("base", self._version.number)
        return next(one for one in self._known if one.number == base)

    def _filled(self, name: str, of: Version, intervals: Sequence[tuple[int, int]], shape: Sequence[Any] = ()) -> Head:
        """Return a head with the rows that were alive in a lineage, those that were evicted beside the others."""
        vectors = stored(self._connection, of.encoder, self._version.number)
        _, features, seed, _ = shape or (vectors.dim, 1, 0, "")  # training needs no random features
        kind = self._declared.get(name, Classify())
        options = HeadOptions(dim=vectors.dim, features=features, neighbours=1, seed=seed, kind=kind)
        head = Head(options, RandomFeatures(vectors.dim, features, seed))
        head.set_labels(list(labels(self._connection, of.domain, intervals, name)))
        head.bounded.read_from(vectors)
        stand = standing(self._connection, of.domain, intervals, name)
        rows = restore.alive_rows(self._connection, of.domain, intervals, name, head, vectors, stand)
        head.restore(rows, None, None, restore.evicted_columns(self._connection, of.domain, intervals, name, head))
        head.learned = len(stand.born)
        return head


# -- made again, and compared ---------------------------------------------------------------------------------


def _compared(name: str, digest: str, work: Job | Solving | bytes) -> Json:
    """Make one file again and compare it with what the version names."""
    if isinstance(work, Solving):
        return _compare_heads(work)
    if isinstance(work, bytes):  # never trained: its digest said so
        return {"verdict": EQUAL, "what": [], "deviation": 0.0}
    data = _trained(work)
    told: Json = {"trained_as": work.candidate.number}
    if hashlib.sha256(data).hexdigest() == digest:
        return {"verdict": EQUAL, "what": [], "deviation": 0.0, **told}
    return {"verdict": DIFFERS, **_compare_adapters(data, work.stored), **told}


def _trained(job: Job) -> bytes:
    """Run a training job to its end; return the candidate's adapter."""
    child = training.start("adaptd.trainer", job.folder)
    with GivingWay(child, "training", job.limit_s):
        _, said = child.communicate()
    if child.returncode != 0:
        raise TrainingFailed(training.failure("training", child.returncode, said.splitlines()))
    return (job.folder / "out" / "adapter.safetensors").read_bytes()


def _compare_adapters(made: bytes, stored: bytes | None) -> Json:
    """Say what differs between two adapters, and by how much at most."""
    if stored is None:
        return {"what": ["no sound file to compare with"], "deviation": None}
    one, other = files.parse_adapter(made, "rebuilt"), files.parse_adapter(stored, "stored")
    wrong = ["labels"] if list(one.log_value) != list(other.log_value) else []
    pairs = {"projection": (one.projection, other.projection), "scale": (torch.tensor(one.scale), torch.tensor(other.scale)),
             "values": (one.values(list(other.log_value)), other.values(list(other.log_value)))}
    distances = {name: _deviation(a, b)[0] for name, (a, b) in pairs.items()
                 if a is not None and b is not None and a.shape == b.shape}
    wrong += [name for name in pairs if distances.get(name) != 0.0]
    return {"what": wrong, "deviation": max(distances.values())}


def _compare_heads(work: Solving) -> Json:
    """Solve a head again; what the journal determines has to be equal, the ridge up to rounding."""
    head, stored, facts = work.head, work.stored, work.facts
    head.solve()
    tensors, again = files.parse(head.dump()["head"], "rebuilt")
    wrong = [key for key in ("labels", "learned", "features") if again[key] != facts[key]]
    wrong += [] if torch.equal(tensors["solved"], stored["solved"]) else ["rows per label"]
    if tensors["ridge"].shape != stored["ridge"].shape:
        return {"verdict": DIFFERS, "what": [*wrong, "ridge"], "deviation": None}
    deviation, largest = _deviation(tensors["ridge"], stored["ridge"])
    wrong += [] if deviation <= ROUNDING * largest else ["ridge"]
    verdict = DIFFERS if wrong else EQUAL if deviation == 0 else ROUNDED
    return {"verdict": verdict, "what": wrong, "deviation": deviation}


def _deviation(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Return the largest difference of a value, and the largest value."""
    if not one.numel():
        return 0.0, 0.0
    return float((one - other).abs().max()), float(other.abs().max())


def _made_with(candidates: Sequence[Version], now: DomainSettings) -> Json:
    """Say what an adapter was made with, what is set otherwise now, and which software is another."""
    if not candidates:
        return {"made_with": None, "set_otherwise_now": {}, "other_software": {}}
    trained = candidates[0].metrics["trained"]
    today = json.loads(now.adapt.model_dump_json())
    changed = {key: {"then": then, "now": today[key]} for key, then in trained["recipe"].items() if today[key] != then}
    here = {name: installed(name) for name in trained["made_by"]}
    other = {name: {"then": then, "now": here[name]} for name, then in trained["made_by"].items() if here[name] != then}
    return {"made_with": trained["recipe"], "set_otherwise_now": changed, "other_software": other}
