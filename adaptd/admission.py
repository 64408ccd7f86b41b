"""Admission: weak labels wait until a trial shows that they help. The daemon may propose some itself: pseudo-labels.

Where: beside adaptations, whose turn and child processes a trial shares. It is one source's: champion and champion with its
labels learned answer the same held-out rows (`adaptd.weighing`), and the gate's paired test, without a margin, must show
that the second is better. What is admitted is learned between two snapshots, so a rollback takes it back. What is proposed
comes from a head that has not learned the held-out rows: else each would be judged by labels that were copied from it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import Connection, Engine, exists, select
from torch import Tensor

from adaptd import config, setaside, training
from adaptd import tables as t
from adaptd.adapt import TRIAL, Adaptation, Outcome
from adaptd.counterfactual import Counterfactual
from adaptd.errors import AdaptdError, BadPayload, Conflict, Refused
from adaptd.evaluate import held_out, paired
from adaptd.gate import NotWorse
from adaptd.heads import Classify
from adaptd.ingest import Door
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.model import files, proposing
from adaptd.model.attention import Adapter
from adaptd.predict import Inference
from adaptd.records import Paired, Verdict
from adaptd.registry import publish
from adaptd.rows import FOREVER
from adaptd.setaside import ADMITTED, ENDED, REJECTED, TRIALS, UNDECIDED
from adaptd.triggers import MOST_DOUBLINGS
from adaptd.vectors import Vectors
from adaptd.versions import Versions
from adaptd.weak import PSEUDO, family

Json = dict[str, Any]
POOL = 5000  # unlabelled events that labels are proposed for: the newest that were answered
MOST = 20_000  # labels of a source that one trial looks at: the newest
LINES = {"promote": ADMITTED, "reject": REJECTED, "undecided": UNDECIDED}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial, as the history has it."""

    source: str
    seq: int  # up to which it looked at labels
    at: float
    what: str
    reasons: str
    labels: int
    n: int  # held-out rows that judged

    @property
    def admitted(self) -> bool:
        """Whether the labels were learned."""
        return self.what == ADMITTED


@dataclass(frozen=True, kw_only=True)
class Given:
    """What one trial is about."""

    seqs: Sequence[int]
    vectors: Tensor  # [n, dim]
    targets: Sequence[Mapping[str, str]]  # [n] per head


class Admission:
    """The trials of one domain's weak labels."""

    def __init__(self, domain: int, settings: config.Weak, door: Door, learner: Learner, versions: Versions,
                 adaptation: Adaptation, journal: Journal, counterfactual: Counterfactual, inference: Inference,
                 vectors: Vectors, reader: Engine) -> None:
        self._domain = domain
        self.settings = settings
        self._door = door
        self._learner = learner
        self._versions = versions
        self._adaptation = adaptation
        self._journal = journal
        self._counterfactual = counterfactual
        self._inference = inference
        self._vectors = vectors
        gate = adaptation.gate
        self._gate = replace(gate, margin=0.0) if isinstance(gate, NotWorse) else NotWorse(margin=0.0)
        self._reader = reader

    @property
    def by_the_clock(self) -> bool:
        """Whether trials start by themselves; a domain without weak sources is never looked at."""
        wanted = self.settings.sources or (self.settings.pseudo and self._proposes)
        return bool(self.settings.every_labels and wanted and self._door.tagging is None)

    @property
    def _proposes(self) -> bool:
        return all(type(head.options.kind) is Classify for head in self._learner.state.heads.values())

    def look(self) -> None:
        """Start a trial where enough labels came since the last one, twice as many for each in a row that showed nothing."""
        with self._reader.connect() as connection:
            tried = _tried(connection, self._domain)
            waiting = setaside.waiting(connection, self._domain).keys() - self._journal.late.holds(self._domain)
            due = {source for source in waiting if not source.startswith(PSEUDO) and self._is_due(connection, tried, source)}
            pseudo = (self.settings.pseudo and self._proposes and not self._proposals_held()
                      and self._is_due(connection, tried, PSEUDO))
        if due or pseudo:
            with contextlib.suppress(Conflict):  # held, or something else runs: this is not the moment
                self._start(f"{self.settings.every_labels} new labels", "adaptd", due, pseudo=pseudo)

    def _is_due(self, connection: Connection, tried: Sequence[Tried], source: str) -> bool:
        mine = [one for one in tried if family(one.source) == family(source)]
        came = setaside.labels_since(connection, self._domain, mine[-1].seq if mine else -1)
        return came >= self.settings.every_labels << doublings(mine, self._gate.min_rows)

    def _proposals_held(self) -> str | None:
        """Return a source of proposals that is on hold, which holds for those of every version."""
        return next((source for source in sorted(self._journal.late.holds(self._domain)) if source.startswith(PSEUDO)), None)

    def start(self, actor: str, *, pseudo: bool) -> Future[Outcome]:
        """Try what waits now; with `pseudo` propose labels first.

        Raises
        ------
        BadPayload
            Weak labels of this domain cannot be tried.
        Conflict
            Adaptation, or the learning of what is proposed, is on hold, or something else runs.
        """
        if self._door.tagging is not None:
            raise BadPayload("weak labels of words are not tried", field="weak",
                             hint="adaptd resume --source admits them untried")
        if pseudo and not self._proposes:
            raise BadPayload("labels are proposed for heads that answer with one label", field="pseudo", hint="adapt --weak")
        if pseudo and (held := self._proposals_held()) is not None:
            raise Conflict(f"learning from {held} is on hold, so nothing is proposed", hint=f"adaptd resume --source {held}")
        return self._start("on demand", actor, None, pseudo=pseudo)

    def _start(self, reason: str, actor: str, due: set[str] | None, *, pseudo: bool) -> Future[Outcome]:
        if "" in self._journal.late.holds(self._domain):
            raise Conflict("learning is on hold", hint="adaptd resume")
        work = functools.partial(self._trial, due=due, pseudo=pseudo)
        trying = self._about(min(due, default=PSEUDO)) if due is not None else None  # if it ends before its turn
        return self._adaptation.start_other(TRIAL, work, reason, actor, trying, asked=(due, pseudo))

    def facts(self, connection: Connection) -> Json:
        """Return how many labels wait, and what the newest trial came to, for status."""
        tried = _tried(connection, self._domain)
        last = {**vars(tried[-1]), "admitted": tried[-1].admitted} if tried else None
        return {"waiting": setaside.waiting(connection, self._domain), "last": last}

    # -- a trial -----------------------------------------------------------------------------------------------

    def _trial(self, folder: Path, reason: str, actor: str, *, due: set[str] | None, pseudo: bool) -> Outcome:
        """Try sources one by one: those that are `due`, or all of which something is new."""
        self._adaptation.children.stage = {"stage": "preparing", "progress": 0.0, "reason": reason}
        stale = self._stale([PSEUDO]) if pseudo else []
        outcomes = [self._propose(actor)] if pseudo and not stale else []
        with self._reader.connect() as connection:
            waiting = [source for source in setaside.waiting(connection, self._domain)
                       if (pseudo and not stale if source.startswith(PSEUDO) else
                           (due is None or source in due) and source not in self._journal.late.holds(self._domain))]
        stale += self._stale([source for source in waiting if not source.startswith(PSEUDO)])
        outcomes += [self._try(folder / str(place), source, actor)
                     for place, source in enumerate(one for one in waiting if one not in stale)]
        words = f"no label came since the last trial of {', '.join(map(family, stale))}" if stale else "no weak label waits"
        verdicts = [one for one in outcomes if one is not None] or [Verdict(decision="undecided", reasons=[words])]
        best = max(verdicts, key=lambda v: ("undecided", "reject", "promote").index(v.decision))
        return Outcome(version=self._learner.state.version, verdict=Verdict(
            decision=best.decision, evidence=best.evidence, reasons=[reason for one in verdicts for reason in one.reasons]))

    def _stale(self, sources: Sequence[str]) -> list[str]:
        """Return those of the sources since whose last trial no label has come."""
        with self._reader.connect() as connection:
            seqs = {family(one.source): one.seq for one in _tried(connection, self._domain) if one.what in TRIALS}
            return [source for source in sources if (seq := seqs.get(family(source))) is not None
                    and not setaside.labels_since(connection, self._domain, seq)]

    def _try(self, folder: Path, source: str, actor: str) -> Verdict:
        """Try one source's labels, and learn them where that is shown to help."""
        self._adaptation.trying = about = self._about(source)
        stood, jobs = self._learner.call(lambda: (self._versions.stands(), self._jobs())).result()
        for tensors, _, _, away in jobs.values():
            away.read_into(tensors["vectors"])
        given = self._given(source, {name: _known(tensors, facts["labels"]) for name, (tensors, facts, *_) in jobs.items()})
        with self._reader.connect() as connection:
            earlier = _earlier(connection, self._domain)
        verdicts = {name: self._gate.judge(self._weighed(folder / name, name, *job[:3], given, earlier))
                    for name, job in jobs.items() if any(name in targets for targets in given.targets)}
        self._adaptation.children.check()
        verdict = _together(verdicts, source, len(given.seqs))
        labels, number = len(given.seqs), None
        if verdict.decision == "promote":
            try:
                labels, number = self._versions.admit(lambda: self._journal.late.admit(self._domain, source, given.seqs), stood,
                                                      source, actor)
            except Refused as refusal:
                reasons = [*verdict.reasons, f"not admitted: {refusal.message}"]
                verdict = replace(verdict, decision="undecided", reasons=reasons)
        self._note(verdict, {**about, "labels": labels}, actor, stood[1], number)
        return verdict

    def _jobs(self) -> dict[str, tuple[dict[str, Tensor], Json, Adapter, training.Away]]:
        """Copy what a trial needs of each head; in the learner's thread."""
        return {name: training.judged(head, FOREVER) for name, head in self._learner.state.heads.items()
                if not head.options.generates}

    def _given(self, source: str, known: Mapping[str, set[str]]) -> Given:
        """Read a source's labels: not for what is held out, none that is overruled, and none that nothing could judge.

        That is what no other label has named.
        """
        with self._reader.connect() as connection:
            held = setaside.held_out(connection, self._domain)
            found = setaside.to_try(connection, self._domain, source, MOST)
        overruled = self._journal.late.overruled(self._domain, [r.seq for r in found])
        read = [(r, self._read(r.label)) for r in found if r.content not in held and r.seq not in overruled]
        read = [(r, targets) for r, targets in read
                if targets and all(target in known.get(head, ()) for head, target in targets.items())]
        vectors = self._vectors([r.event for r, _ in read])
        read = [(r, targets) for r, targets in read if r.event in vectors]  # the others were forgotten meanwhile
        return Given(seqs=[r.seq for r, _ in read], targets=[targets for _, targets in read],
                     vectors=torch.stack([vectors[r.event] for r, _ in read]) if read else torch.zeros(0))

    def _read(self, label: str) -> Mapping[str, str]:
        try:
            return self._door.targets(json.loads(label))
        except AdaptdError:  # the domain takes other labels now
            return {}

    def _weighed(self, folder: Path, name: str, tensors: dict[str, Tensor], facts: Json, adapter: Adapter, given: Given,
                 earlier: Sequence[int]) -> Paired:
        """Have a child answer the held-out rows of a head without and with the labels."""
        held = held_out(tensors)
        if len(held) < self._gate.min_rows:  # no child is needed to say so
            truth = tensors["targets"][held]
            return paired({"rows": held, "champion": truth, "candidate": truth}, tensors, facts["labels"], earlier)
        mine = [place for place, targets in enumerate(given.targets) if name in targets]
        classes = {label: place for place, label in enumerate(facts["labels"])}
        weak = {"vectors": given.vectors[mine], "targets": torch.tensor([classes[given.targets[i][name]] for i in mine])}
        job = {"parent_pid": os.getpid(), "threads": self._adaptation.settings.threads}
        publish(folder / "in", {"job.json": json.dumps(job).encode(), "adapter.safetensors": files.dump_adapter(adapter),
                                "judged.safetensors": files.dump(tensors, facts), "weak.safetensors": files.dump(weak, {})})
        (folder / "out").mkdir()
        self._adaptation.children.run("adaptd.weighing", folder, "weighing", self._adaptation.settings)
        scores, _ = files.parse((folder / "out" / "scores.safetensors").read_bytes(), "scores")
        return paired(scores, tensors, facts["labels"], earlier)

    def _about(self, source: str) -> Json:
        """Return what the history has of a source's trial that begins now, should it come to nothing."""
        with self._reader.connect() as connection:
            return {"source": source, "labels": 0, "n": 0, "evidence": {}, "seq": setaside.newest(connection)}

    def _note(self, verdict: Verdict, about: Json, actor: str, before: int | None = None, after: int | None = None) -> None:
        detail = {**about, "n": verdict.evidence.get("n", 0), "evidence": dict(verdict.evidence)}
        self._versions.note(LINES[verdict.decision], actor, "; ".join(verdict.reasons), before=before, after=after, detail=detail)

    # -- what the daemon proposes ------------------------------------------------------------------------------

    def _propose(self, actor: str) -> Verdict | None:
        """Journal labels for unlabelled events, where the answers are sure enough; say so where none is."""
        self._adaptation.trying = about = self._about(PSEUDO)
        self._adaptation.children.at("proposing")
        self._journal.committed().result()  # answers are recorded behind the answer
        with self._reader.connect() as connection:
            held = setaside.held_out(connection, self._domain)
            pool = [r.seq for r in connection.execute(_pool(self._domain)) if r.content not in held]
        vectors = self._vectors(pool)
        pool = [event for event in pool if event in vectors]
        labels = self._labels(pool, torch.stack([vectors[event] for event in pool])) if pool else {}
        source = f"{PSEUDO}{self._learner.state.version}"
        if self._journal.late.propose(self._domain, source, labels).result():
            return None
        words = f"no answer to {len(pool)} unlabelled events is sure enough to propose it"
        verdict = Verdict(decision="undecided", reasons=[words])
        self._note(verdict, {**about, "source": source}, actor)
        return verdict

    def _labels(self, events: Sequence[int], vectors: Tensor) -> dict[int, Any]:
        """Return the labels of the events that all heads are sure of."""
        found = {name: self._guess(name, vectors) for name in self._learner.state.heads}
        chosen = set.intersection(*(set(one) for one in found.values()))
        whole = [{name: one[place] for name, one in found.items()} for place in sorted(chosen)]
        return {events[place]: label if len(found) > 1 else next(iter(label.values()))
                for place, label in zip(sorted(chosen), whole, strict=True)}

    def _guess(self, name: str, vectors: Tensor) -> dict[int, str]:
        """Return the label of each place that one head is sure of, as if it had not learned the held-out rows."""
        past = self._counterfactual.past(name)
        rows = [row for entry in past.entries for row in entry.born if row.head == name]
        judging = {row.event for row in rows if row.holdout}
        head = past.head.without([row.id for row in rows if row.event in judging],
                                 [(row.id, row.target) for row in rows if row.event not in judging]).snapshot()
        limit = past.head.fold.recent.limits(self.settings.pseudo_error, 0.0).confidence
        if not head.known.any():
            return {}
        said = proposing.guess(vectors, head, lambda work: self._inference.between(work).result())
        return {place: said.targets[place] for place in proposing.choose(said.targets, said.sure, limit)}


def doublings(tried: Sequence[Tried], min_rows: int) -> int:
    """Return how often the labels that the next trial wants are doubled, for those in a row that showed nothing.

    One that only wanted more held-out rows than there were changes nothing.
    """
    fruitless = 0
    for one in reversed(tried):
        if one.admitted:
            break
        fruitless += one.n >= min_rows or one.what in ENDED
    return min(fruitless, MOST_DOUBLINGS)


def _known(tensors: Mapping[str, Tensor], labels: Sequence[str]) -> set[str]:
    """Return the labels that have rows."""
    return {labels[c] for c in set(tensors["targets"].tolist())}


def _together(verdicts: Mapping[str, Verdict], source: str, labels: int) -> Verdict:
    """Return the verdict on a source of those on the heads: one is better, and none worse."""
    if not verdicts:
        words = f"{source}: none of its labels can be tried: what they name is known from no other"
        return Verdict(decision="undecided", reasons=[words])
    order = ("undecided", "promote", "reject")
    worst = max(verdicts.values(), key=lambda verdict: order.index(verdict.decision))
    reasons = [f"{source}, {labels} labels: " + (f"{name}: " if len(verdicts) > 1 else "") + "; ".join(one.reasons)
               for name, one in verdicts.items()]
    return replace(worst, reasons=reasons)


def _pool(domain: int) -> Any:
    """Return the select of the newest events that were answered and have no label but proposals that came to nothing."""
    return select(t.event.c.seq, t.event.c.content).where(
        t.event.c.domain == domain, t.event.c.source != t.FORGOTTEN, setaside.unproposed(),
        exists().where(t.prediction.c.event == t.event.c.seq)).order_by(t.event.c.seq.desc()).limit(POOL)


def _tried(connection: Connection, domain: int) -> list[Tried]:
    """Return all trials, oldest first."""
    query = select(t.action).where(t.action.c.domain == domain, t.action.c.what.in_((*TRIALS, *ENDED))).order_by(t.action.c.id)
    found = [(r, json.loads(r.detail)) for r in connection.execute(query)]
    return [Tried(source=detail["source"], seq=detail.get("seq", r.seq), at=r.at, what=r.what, reasons=r.reason,
                  labels=detail["labels"], n=detail["n"]) for r, detail in found if detail]  # others ended before a source's turn


def _earlier(connection: Connection, domain: int) -> list[int]:
    """Return on how many held-out rows each trial was judged since the champion became what it is."""
    query = select(t.action.c.what, t.action.c.detail).where(
        t.action.c.domain == domain, t.action.c.what.in_(("promote", *TRIALS))).order_by(t.action.c.id)
    found: list[int] = []
    for what, detail in connection.execute(query):
        if what in ("promote", ADMITTED):
            found.clear()
        else:
            found.append(json.loads(detail).get("n", 0))
    return found
