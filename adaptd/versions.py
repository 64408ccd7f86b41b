"""Versions of a running domain: snapshot, rollback, promotion. Each moves one pointer in one transaction.

All run in the learner's thread behind its barrier, so no label is half learned; answers go on meanwhile and see
the old snapshot or the new one, wholly. Files are durable before the transaction that names them; memory is
touched only after it, and a failure then stops the daemon, which comes up from the disk.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, or_, select

from adaptd import moments, registry, restore, retention, triggers
from adaptd import tables as t
from adaptd.db import Writer
from adaptd.errors import Conflict, Refused, StoreFailed
from adaptd.history import act
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.memory import Keys, Memory
from adaptd.model.network import Head, Shadow
from adaptd.records import canonical
from adaptd.refold import fold_outcomes
from adaptd.registry import Version
from adaptd.relearn import Scope
from adaptd.rows import FOREVER, Standing, labels, lineage, replay, retaught, standing
from adaptd.sequential import Trial
from adaptd.vectors import Vectors

ADAPTD = "adaptd"  # who acts when nobody asked


class Numbers:
    """Gives version numbers: unique in the store, also against folders that a crash left without a row."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._lock = threading.Lock()

    def take(self) -> int:
        """Return the next number."""
        with self._lock:
            self._next += 1
            return self._next - 1


class Versions:
    """The version operations of one domain."""

    def __init__(
        self,
        domain: int,
        learner: Learner,
        journal: Journal,
        writer: Writer,
        reader: Engine,
        folder: Path,
        numbers: Numbers,
        vectors: Vectors,
        *,
        encoder: str,
        config: str,
    ) -> None:
        self.domain = domain
        self.folder = folder
        self.numbers = numbers
        self._learner = learner
        self._journal = journal
        self._writer = writer
        self._reader = reader
        self._vectors = vectors
        self._encoder = encoder
        self._config = config
        self._busy = threading.Lock()  # one operation at a time; a second one is told so
        # (version, what was live is saved as, what it answered with), in the learner's thread
        self.on_promoted: Callable[[int, int, Mapping[str, Shadow]], None] = lambda version, champion, shadows: None

    def snapshot(self, reason: str, actor: str) -> int:
        """Name the live state; the pointer moves to it. Return its number."""
        with self.alone():
            return self._learner.call(lambda: self._snapshot(reason, actor)).result()

    def rollback(self, to: int | None, reason: str, actor: str, at: float | None = None) -> tuple[int, int]:
        """Move the pointer to an earlier version; return (its number, the number under which the present was saved).

        With `at` the state of that moment is entered as a version first, and the pointer moves to it; without `to`
        and `at` it is one step back. Learning is put on hold first, in journal order, so that no label falls between
        the saved state and the branch that starts here.
        """
        with self.alone():
            target = self._target(to, at, actor)
            contents = registry.read(self.folder / str(target.number), target.files)
            if target.encoder != self._encoder:
                contents = {}  # the rows come back; another encoder's adapter says nothing about these vectors
            held_before, moved = "" in self._journal.late.holds(self.domain), threading.Event()
            self._journal.late.hold(self.domain, "learning", "", reason or "rollback", actor).result()
            try:
                return self._learner.call(lambda: self._rollback(target, contents, reason, actor, moved), trailing=True).result()
            except BaseException:
                if not held_before and not moved.is_set():
                    self._journal.late.resume(self.domain, "learning", "", "the rollback failed", actor)
                raise

    def _target(self, to: int | None, at: float | None, actor: str) -> Version:
        with self._reader.connect() as connection:
            if at is not None:
                moment = moments.find(connection, self.domain, at)
                generating = {name for name, head in self._learner.state.heads.items() if head.options.generates}
                return moments.enter(connection, moment, self.folder, self.numbers.take(), actor, generating)
            target = (
                registry.rollback_target(connection, self.domain) if to is None else registry.version(connection, to, self.domain)
            )
            registry.check_restorable(target)
            return target

    def resume(self, what: str, source: str, reason: str, actor: str) -> int:
        """Lift a hold, but never in the middle of a rollback; return how many labels had waited."""
        with self.alone():
            return self._journal.late.resume(self.domain, what, source, reason, actor)

    def drop(self, source: str, reason: str, actor: str) -> int:
        """Lift the hold of a source, but never in the middle of a rollback; what waited stays out. Return how many labels."""
        with self.alone():
            return self._journal.late.drop(self.domain, source, reason, actor).result()

    def replay(self, scope: Scope, reason: str, actor: str) -> tuple[int, int]:
        """Learn again what the live lineage lacks, but never in the middle of a rollback; return (learned, stayed out)."""
        with self.alone():
            return self._journal.late.replay(self.domain, scope, reason, actor)

    def admit(self, learn: Callable[[], int], tried_on: tuple[int, int], source: str, actor: str) -> tuple[int, int]:
        """Learn what waits of a source, between two snapshots; return how many labels, and the second, which is live.

        A rollback takes it back.

        Raises
        ------
        Refused
            Branch and version are no more those that it was `tried_on`: there was a rollback, a promotion, a snapshot.
        """
        with self.alone():
            if self.stands() != tried_on:
                raise Refused("another version went live meanwhile", hint="try them again")
            self._learner.call(lambda: self._snapshot(f"before weak labels of {source}", actor)).result()
            learned = learn()
            reason = f"{learned} weak labels of {source}"
            return learned, self._learner.call(lambda: self._snapshot(reason, actor)).result()

    def stands(self) -> tuple[int, int]:
        """Return the branch that grows now, and the live version."""
        live = self._live()
        return live.branch, live.version

    def branch(self) -> int:
        """Return the branch that grows now."""
        return self._live().branch

    def promote(
        self,
        number: int,
        force: bool,
        reason: str,
        actor: str,
        evidence: Mapping[str, Any] | None = None,
        branch: int | None = None,
    ) -> int:
        """Make a candidate live: its adapter over the present memory. What was live is saved first.

        `branch` is the one that the candidate was trained on: after a rollback in between it stays a candidate.

        Raises
        ------
        Refused
            Its gate did not promote it and `force` was not given, or the live state was rolled back meanwhile.
        """
        with self.alone():
            with self._reader.connect() as connection:
                candidate = registry.version(connection, number, self.domain)
                contents = registry.read(self.folder / str(number), candidate.files)
            registry.check_not_retired(candidate)
            decision = (candidate.verdict or {}).get("decision")
            if candidate.kind != "candidate":
                raise Conflict(
                    f"version {number} is not a candidate", field="to", hint="adaptd rollback --to moves to any other version"
                )
            if registry.was_live(candidate):
                raise Conflict(f"version {number} was live already", field="to", hint=f"adaptd rollback --to {number}")
            registry.check_kept(candidate)
            if decision != "promote" and not force:
                raise Refused(
                    f"the gate said {decision} to version {number}: {'; '.join(candidate.verdict['reasons'])}"
                    if candidate.verdict
                    else f"version {number} has no verdict",
                    hint="adaptd promote N --force --reason …",
                )
            adapters = {
                name: files.parse_adapter(contents[f"{name}.adapter"], f"version {number}")
                for name in self._learner.state.heads
                if f"{name}.adapter" in contents
            }
            heads = self._learner.state.heads
            # made here, while the old index answers
            made = {name: (heads[name].memory, heads[name].rebuilt(adapter)) for name, adapter in adapters.items()}
            return self._learner.call(
                lambda: self._promote(candidate, adapters, made, reason, actor, evidence or {}, branch)
            ).result()

    def demote(self, trial: Trial, reason: str, evidence: Mapping[str, Any]) -> int | None:
        """Take a version on probation back: the old champion's adapters over the present memory, under a new number.

        Nothing that was learned is lost and learning goes on. Returns None when the trial is over meanwhile.
        """
        with self.alone():
            return self._learner.call(lambda: self._demote(trial, reason, evidence)).result()

    def expire(self, keep: int, keep_days: float) -> None:
        """Let versions that are beyond what is kept lose their files; the mark is durable before a file goes."""
        with self.alone():
            now = time.time()
            with self._reader.connect() as connection:
                gone = retention.outlived(connection, self.domain, keep, keep_days, now)
            if gone:
                self._writer.submit(lambda connection: retention.mark(connection, self.domain, gone, now)).result()
            with self._reader.connect() as connection:
                retention.sweep(connection, self.domain, self.folder)

    # -- in the learner's thread ------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other operation on versions run meanwhile."""
        if not self._busy.acquire(timeout=30.0):
            raise Conflict("another version operation is running", hint="try again when it is done")
        try:
            yield
        finally:
            self._busy.release()

    def _save(
        self, number: int, kind: str, live: registry.Live, reason: str, actor: str, named: Mapping[str, str] | None = None
    ) -> Version:
        """Write the live state's files, beside those `named` of a version that is there; return the row to enter."""
        state = self._learner.state
        contents = {f"{name}.{part}": data for name, head in state.heads.items() for part, data in head.dump().items()}
        folder = self.folder / str(number)
        try:
            written = registry.complete(folder, named, contents) if named else registry.publish(folder, contents)
        except OSError as error:
            raise StoreFailed(f"version {number} could not be written: {error}",
                              hint="look at the disk; nothing has changed") from error
        return Version(
            number=number,
            domain=self.domain,
            kind=kind,
            parent=live.version,
            branch=live.branch,
            seq=state.seq,
            encoder=self._encoder,
            config=self._config,
            files=written,
            metrics=self.metrics(),
            verdict=None,
            actor=actor,
            reason=reason,
            created=time.time(),
        )

    def metrics(self) -> dict[str, Any]:
        """Return the metrics that a version carries."""
        state = self._learner.state
        return {
            "folds": restore.folds(state),
            "prequential": state.prequential.accuracy,
            "labels": sum(len(head.labels) for head in state.heads.values()),
            "memory": sum(int(head.means.counts.sum()) for head in state.heads.values()),
            "trails": self._learner.trails,
        }

    def _live(self) -> registry.Live:
        with self._reader.connect() as connection:
            return registry.live(connection, self.domain)

    def _snapshot(self, reason: str, actor: str) -> int:
        live = self._live()
        new = self._save(self.numbers.take(), "snapshot", live, reason, actor)

        def write(connection: Connection) -> None:
            registry.add(connection, new)
            registry.point(connection, self.domain, new.number, live.branch, "snapshot", actor, reason)

        self._writer.submit(write).result()
        self._learner.state.version = new.number
        self._learner.publish()
        return new.number

    def _rollback(
        self, target: Version, contents: Mapping[str, bytes], reason: str, actor: str, moved: threading.Event
    ) -> tuple[int, int]:
        live = self._live()
        saved = self._save(self.numbers.take(), "saved", live, f"before rollback to {target.number}", actor)
        with self._reader.connect() as connection:
            intervals = lineage(connection, target.branch, target.seq)
            stand = {name: standing(connection, self.domain, intervals, name) for name in self._learner.state.heads}

        def write(connection: Connection) -> None:
            registry.add(connection, saved)
            registry.add_missing(connection, target)
            branch = registry.fork(connection, target)
            registry.point(connection, self.domain, target.number, branch, "rollback", actor, reason, {"saved": saved.number})
            self._journal.births.adopt(self.domain, lineage(connection, branch, FOREVER), hold=True)

        self._writer.submit(write).result()
        moved.set()
        try:
            self._become(target, contents, stand, intervals)
        except BaseException as error:  # the pointer has moved and memory is between two states: come up from the disk
            self._learner.on_failure(error)
            raise
        return target.number, saved.number

    def _become(
        self,
        target: Version,
        contents: Mapping[str, bytes],
        stand: Mapping[str, Standing],
        intervals: list[tuple[int, int]],
    ) -> None:
        """Make the state what it was at a version: rows, labels, solved heads, adapters, folds."""
        state = self._learner.state
        state.version, state.seq, state.trial = target.number, target.seq, None
        for name, head in state.heads.items():
            self._become_head(head, name, target, contents, stand[name], intervals)
        if folded := target.metrics.get("folds"):
            restore.load_folds(state, folded)
            with self._reader.connect() as connection:
                restore.fold_on(connection, state, self.domain, intervals, target.folded, self._vectors.encoder_id,
                                self._learner.examiner.quarantine)
        else:  # version 1, or a forget took them
            with self._reader.connect() as connection:
                entries = replay(connection, self.domain, intervals, -1)
            fold_outcomes(self._learner, entries)
        if target.solved:
            self._learner.settle(solved=all(head.is_solved() for head in state.heads.values()) and not target.trails)
            self._learner.publish()
        else:
            self._learner.solve()  # before it answers; what answered until now goes on meanwhile

    def _become_head(
        self,
        head: Head,
        name: str,
        target: Version,
        contents: Mapping[str, bytes],
        stand: Standing,
        intervals: list[tuple[int, int]],
    ) -> None:
        with self._reader.connect() as connection:
            born = labels(connection, self.domain, intervals, name)
            if f"{name}.head" in contents:
                head.load_head(contents[f"{name}.head"], f"version {target.number}", solved=target.solved)
                head.set_labels(list(dict.fromkeys([*head.labels, *born])))
            else:
                head.set_labels(list(born))
                head.clear_answers()
            load = functools.partial(restore.alive_rows, connection, self.domain, intervals, name, head, self._vectors)
            head.become(stand.born, stand.alive, stand.evicted, load)
            head.trace(retaught(connection, self.domain, intervals, name))
        head.adopt(
            files.parse_adapter(contents[f"{name}.adapter"], f"version {target.number}")
            if f"{name}.adapter" in contents
            else Adapter()
        )
        head.fold.expect(head.adapter)

    def _promote(
        self,
        candidate: Version,
        adapters: Mapping[str, Adapter],
        made: Mapping[str, tuple[Memory, Keys]],
        reason: str,
        actor: str,
        evidence: Mapping[str, Any],
        branch: int | None,
    ) -> int:
        live = self._live()
        if branch is not None and branch != live.branch:
            raise Refused("the live state was rolled back while this candidate was trained", hint="adapt again")
        number = candidate.number

        def adopt(head: Head, name: str) -> None:
            if name in adapters:
                memory, keys = made[name]
                head.adopt(adapters[name], keys if memory is head.memory else None)  # compacted meanwhile: anew

        def enter(connection: Connection, new: Version) -> None:
            values = {
                "files": canonical(new.files),
                "branch": new.branch,
                "seq": new.seq,
                "parent": new.parent,
                "metrics": canonical({**candidate.metrics, **new.metrics}),
            }
            connection.execute(t.version.update().where(t.version.c.number == number).values(**values))
            registry.point(connection, self.domain, number, live.branch, "promote", actor, reason, evidence)

        before = {name: head.shadow() for name, head in self._learner.state.heads.items()
                  if name in adapters and not head.options.generates}  # texts are not written twice
        new = self._exchange(number, live, adopt, f"before promotion of {number}", actor, enter, candidate.files)
        assert new.parent is not None
        self.on_promoted(number, new.parent, before)
        return number

    def _exchange(
        self,
        number: int,
        live: registry.Live,
        adopt: Callable[[Head, str], None],
        words: str,
        actor: str,
        enter: Callable[[Connection, Version], None],
        named: Mapping[str, str] | None = None,
    ) -> Version:
        """Let every head `adopt` another adapter over the present memory; `enter` enters that as a version that is live.

        What was live is saved first, in the same transaction. `named` are the files that the version has already.
        """
        state = self._learner.state
        saved = self._save(self.numbers.take(), "saved", live, words, actor)
        before = {name: (head.adapter, head.keys, deepcopy(head.fold)) for name, head in state.heads.items()}
        try:
            for name, head in state.heads.items():
                adopt(head, name)
            new = replace(self._save(number, "reinstated", live, words, actor, named), parent=saved.number)

            def write(connection: Connection) -> None:
                registry.add(connection, saved)
                enter(connection, new)

            self._writer.submit(write).result()
        except BaseException:
            for name, (adapter, keys, fold) in before.items():
                state.heads[name].fold = fold
                state.heads[name].adopt(adapter, keys)
            raise
        state.version = number
        self._learner.publish()
        return new

    def _demote(self, trial: Trial, reason: str, evidence: Mapping[str, Any]) -> int | None:
        if self._learner.state.trial is not trial:
            return None  # rolled back, forgotten or promoted over meanwhile
        number, live = self.numbers.take(), self._live()

        def adopt(head: Head, name: str) -> None:
            if (shadow := trial.shadows.get(name)) is not None:
                head.adopt(shadow.adapter)
                head.fold = shadow.fold
                head.fold.grow(len(head.labels))

        def enter(connection: Connection, new: Version) -> None:
            registry.add(connection, replace(new, reason=reason))
            registry.point(connection, self.domain, number, live.branch, "demote", ADAPTD, reason, evidence)

        self._exchange(number, live, adopt, f"before demotion of {trial.version}", ADAPTD, enter)
        self._learner.state.trial = None
        return number

    def enter_candidate(
        self, contents: Mapping[str, bytes], verdict: Mapping[str, Any], metrics: Mapping[str, Any], reason: str, actor: str
    ) -> int:
        """Enter what an adaptation produced, whatever its verdict; return its number."""
        number = self.numbers.take()
        digests = registry.publish(self.folder / str(number), contents)
        live, seq = self._learner.call(lambda: (self._live(), self._learner.state.seq)).result()
        row = Version(
            number=number,
            domain=self.domain,
            kind="candidate",
            parent=live.version,
            branch=live.branch,
            seq=seq,
            encoder=self._encoder,
            config=self._config,
            files=digests,
            metrics=metrics,
            verdict=verdict,
            actor=actor,
            reason=reason,
            created=time.time(),
        )

        def write(connection: Connection) -> None:
            registry.add(connection, row)
            act(
                connection,
                self._writer.last_seq,
                self.domain,
                f"verdict-{verdict['decision']}",
                actor,
                "; ".join(verdict["reasons"]),
                before=live.version,
                after=number,
            )

        self._writer.submit(write).result()
        return number

    def note(self, what: str, actor: str, reason: str, *, before: int | None = None, after: int | None = None,
             detail: Mapping[str, Any] | None = None) -> None:
        """Write a line of the history about what is no move of the pointer; `before` is by default the live version."""
        live = self._learner.state.version if before is None else before
        self._writer.submit(lambda c: act(c, self._writer.last_seq, self.domain, what, actor, reason, before=live, after=after,
                                          detail=detail)).result()

    def tried(self, *, consolidations: bool = False) -> list[triggers.Tried]:
        """Return what the newest adaptations, or consolidations, came to, oldest first."""
        with self._reader.connect() as connection:
            return triggers.read(connection, self.domain, consolidations=consolidations)

    def labels_since(self, seq: int) -> int:
        """Return how many labels were learned after a seq."""
        with self._reader.connect() as connection:
            return triggers.labels_since(connection, self.domain, seq)

    def trained_up_to(self) -> int:
        """Return the seq up to which rows have been an experience of a candidate; -1 before the first."""
        return max((one.get("trained", {}).get("seq", -1) for one in self._candidates()
                    if not triggers.is_consolidation(one)), default=-1)

    def consolidated_up_to(self) -> int:
        """Return the seq up to which rows have been consolidated, whatever that came to; -1 before the first."""
        return max((one["trained"]["seq"] for one in self._candidates() if triggers.is_consolidation(one)), default=-1)

    def tries(self, head: str) -> list[int]:
        """Return on how many held-out rows each candidate was judged since a promotion of the head, oldest first."""
        query = select(t.action.c.what, t.version.c.metrics).join(t.version, t.version.c.number == t.action.c.after).where(
            t.action.c.domain == self.domain, t.version.c.kind == "candidate",
            or_(t.action.c.what == "promote", t.action.c.what.startswith("verdict-")))
        found: list[int] = []
        with self._reader.connect() as connection:
            for what, metrics in connection.execute(query.order_by(t.action.c.id)):
                trained = json.loads(metrics).get("trained", {})
                judged = trained.get("judged", {})
                if what != "promote":
                    found.append(judged.get(head, 0))
                elif head in (trained.get("passed") or judged or (head,)):  # by force all, as before heads passed by themselves
                    found.clear()
        return found

    def _candidates(self) -> list[dict[str, Any]]:
        """Return the metrics of the domain's candidates, oldest first."""
        query = select(t.version.c.metrics).where(t.version.c.domain == self.domain, t.version.c.kind == "candidate")
        with self._reader.connect() as connection:
            return [json.loads(text) for text in connection.execute(query.order_by(t.version.c.number)).scalars()]

    def evaluations(self) -> list[dict[str, float]]:
        """Return the champion's per-class holdout accuracies of every evaluation, oldest first."""
        return [one["classes"] for one in self._candidates() if "classes" in one]
