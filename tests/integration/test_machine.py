"""Any history of a store against the ledger of what it must hold: hypothesis interleaves everything that can be done.

More of it: ``HYPOTHESIS_PROFILE=thorough make test ARGS=tests/integration/test_machine.py``.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from adaptd import registry
from adaptd import tables as t
from adaptd.errors import AdaptdError, Conflict, Forgotten, NotFound, Refused
from adaptd.rows import alive as alive_rows
from adaptd.rows import lineage
from tests.integration.ledger import IDENTITY, Event, Ledger, Mark, alive
from tests.integration.live import Json, Live

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
settings.register_profile("ci", max_examples=25, stateful_step_count=30, derandomize=True, deadline=None,
                          suppress_health_check=SLOW)
settings.register_profile("thorough", max_examples=300, stateful_step_count=50, deadline=None, suppress_health_check=SLOW)

WORDS = ("card", "rain", "song", "soup", "train", "lost", "new", "my")
ASKED = ("my card", "rain", "lost song", "new soup train", "unheard")
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
LABEL = st.sampled_from(("a", "b", "c", "d"))
SOURCE = st.sampled_from(("s1", "s2", "s3"))
KEY = st.sampled_from((None, None, "k1", "k2", "k3"))
SUBJECT = st.sampled_from((None, "p1", "p2"))
ADAPTATION = "adaptation"
WHICH = st.integers(0, 10_000)  # of what there is, by its place
SOME = st.lists(SOURCE, max_size=2, unique=True)
LESSON = st.fixed_dictionaries({"text": TEXT, "source": SOURCE, "label": LABEL})
EVENT = st.fixed_dictionaries({"text": TEXT, "source": SOURCE, "id": KEY, "subject": SUBJECT,
                               "label": st.one_of(LABEL, LABEL, st.none())})


class Machine(RuleBasedStateMachine):
    """The rules are what an operator, a client and a crash can do."""

    @initialize(lesson=st.lists(LESSON, max_size=6))
    def begin(self, lesson: list[Json]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="adaptd-"))
        self.lives = 0
        self.live = Live(self.folder / "store")
        self.ledger = Ledger()
        self.before: list[tuple[Any, ...]] = []
        self.send(lesson)

    def teardown(self) -> None:
        try:
            self._versions_are(len(self.ledger.versions))
            self._twin_says_the_same()
        finally:
            self.live.end()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- events and labels -------------------------------------------------------------------------------------

    @rule(events=st.lists(EVENT, min_size=1, max_size=4))
    def send(self, events: list[Json]) -> None:
        events = [{name: value for name, value in event.items() if value is not None} for event in events]
        wanted, late, fresh, before = Counter[str](), [], {}, time.time()
        for place, event in enumerate(events):
            source, key = event["source"], event.get("id")
            known = self.ledger.find(source, key) or next(
                (e for e in fresh.values() if key is not None and (e.source, e.key) == (source, key)), None)
            if known is None:
                fresh[place] = made = self.ledger.enter(event["text"], source, key, event.get("subject"), before)
                wanted["accepted"] += 1
                continue
            if known.forgotten or known.text != event["text"]:
                wanted["rejected"] += 1
            elif "label" in event:
                late.append((place, known))
            else:
                wanted["duplicate"] += 1
        done = self.do(self.service.events("text", events, source="http"))
        for place, made in fresh.items():
            made.id = done["events"][place]
            self.ledger.events[made.id] = made
            if "label" in events[place]:
                self.ledger.label(made.id, events[place]["label"], made.source, seq=made.seq)
        for place, known in late:
            became = self.ledger.again(known.id, events[place]["label"])
            wanted[became] += 1
            if became == "accepted":
                self.ledger.label(known.id, events[place]["label"], known.source)
        assert (done["accepted"], done["duplicates"], len(done["rejected"])) == (
            wanted["accepted"], wanted["duplicate"], wanted["rejected"])

    @precondition(lambda self: self.ledger.events)
    @rule(which=WHICH, label=LABEL, teacher=SOURCE, by_key=st.booleans())
    def teach(self, which: int, label: str, teacher: str, by_key: bool) -> None:
        event = self.pick(which)
        named = {"source": event.source, "id": event.key} if by_key and event.key else {"event": event.id}
        done = self.do(self.service.feedback("text", [{**named, "label": label}], source=teacher))
        if event.forgotten:
            assert done["rejected"][0]["error"]["code"] == Forgotten.code
        elif self.ledger.says_nothing_new(event.id, label):
            assert done["duplicates"] == 1
        else:
            self.ledger.label(event.id, label, teacher)
            assert (done["accepted"], done["held"]) == (1, int(self.ledger.held(teacher)))

    @rule(text=TEXT, key=KEY)
    def ask(self, text: str, key: str | None) -> None:
        known, before = self.ledger.find("http", key), time.time()
        given = {"text": text} | ({} if key is None else {"id": key})
        asking = self.service.predict("text", [given], source="http", explain=False, min_seq=None, actor="m")
        if known is not None and (known.forgotten or known.text != text):
            self.refused(Conflict, asking)
            return
        done = self.do(asking)
        told = done["predictions"][0]
        if known is None:
            known = self.ledger.enter(text, "http", key, None, before)
            known.id = told["event"]
            self.ledger.events[known.id] = known
        assert told["event"] == known.id and done["version"] == self.ledger.live
        assert told["label"] in {one.label for one in alive(self.ledger.born).values()} or not self.ledger.born
        known.versions.append(self.ledger.live)

    # -- holds and the way back --------------------------------------------------------------------------------

    @rule(source=st.sampled_from(("", "s1", "s2", ADAPTATION)))
    def hold(self, source: str) -> None:
        what, source = ("adaptation", "") if source == ADAPTATION else ("learning", source)
        self.do(self.service.hold("text", what=what, source=source, reason="", actor="m"))
        if what == "adaptation":
            self.ledger.adapting = False
        else:
            self.ledger.holds.add(source)

    @rule(source=st.sampled_from(("", "", "s1", "s2", ADAPTATION)))
    def resume(self, source: str) -> None:
        what, source = ("adaptation", "") if source == ADAPTATION else ("learning", source)
        done = self.do(self.service.resume("text", what=what, source=source, drop=False, reason="", actor="m"))
        if what == "adaptation":
            self.ledger.adapting = True
        else:
            assert done["learned"] == self.ledger.resume(source)

    @rule()
    def snapshot(self) -> None:
        number = self.do(self.service.snapshot("text", reason="", actor="m"))["version"]
        self.ledger.save(number, answers=self.live.answers(ASKED))
        self.ledger.live = number

    @rule(which=st.none() | WHICH, replayed=st.booleans(), sources=SOME)
    def roll_back(self, which: int | None, replayed: bool, sources: list[str]) -> None:
        numbers = list(self.ledger.versions)
        to = None if which is None else numbers[which % len(numbers)]
        target = self.ledger.step_back() if to is None else to
        sources = [s for s in sources if replayed and s in {one.teacher for one in self.ledger.labels}]
        answers = self.live.answers(ASKED)
        moving = self.service.rollback("text", to=to, at=None, reason="", actor="m", and_replay=replayed, except_sources=sources)
        if target is None:
            self.refused(NotFound, moving)
        elif not self.ledger.restorable(target):
            self.refused(Refused, moving)
        else:
            done = self.do(moving)
            assert done["version"] == target
            self.ledger.save(done["saved"], answers=answers)
            self.ledger.become(self.ledger.versions[target])
            if replayed:
                self._replayed_after(target, sources, done)
            elif (then := self.ledger.versions[target].answers) is not None:
                assert self.live.answers(ASKED) == then, "equal bits"

    def _replayed_after(self, target: int, sources: list[str], done: Json) -> None:
        self.ledger.holds |= set(sources)
        with self.live.parts.reader.connect() as connection:
            since = registry.version(connection, target).seq
        assert (done["relearned"], done["skipped"]) == self.ledger.replay(since, sources, ())

    @precondition(lambda self: self.ledger.marks)
    @rule(which=WHICH)
    def roll_back_to_a_moment(self, which: int) -> None:
        mark = self.ledger.marks[which % len(self.ledger.marks)]
        answers = self.live.answers(ASKED)
        moving = self.service.rollback("text", to=None, at=mark.at, reason="", actor="m", and_replay=False, except_sources=())
        then = self.ledger.versions[mark.version]
        if then.retired:
            self.refused(Refused, moving)
            return
        done = self.do(moving)
        self.ledger.save(done["saved"], answers=answers)
        made = self.ledger.save(done["version"], born=mark.born, adapter=then.adapter, parent=mark.version)
        self.ledger.become(made)
        if not self.ledger.forgot:  # what later labels told rests on what was forgotten, and goes with it
            assert self.live.folds() == mark.folds, "trust, calibration, drift and all, to the bit"

    @rule(which=WHICH, sources=SOME, except_event=st.booleans())
    def replay(self, which: int, sources: list[str], except_event: bool) -> None:
        since = self.ledger.labels[which % len(self.ledger.labels)].seq if self.ledger.labels else 0
        sources = [s for s in sources if s in {one.teacher for one in self.ledger.labels}]
        events = [self.pick(which).id] if except_event and self.ledger.events else []
        done = self.do(self.service.replay("text", since=since, except_sources=sources, except_events=events, reason="",
                                           actor="m"))
        assert (done["relearned"], done["skipped"]) == self.ledger.replay(since, sources, events)

    # -- adaptation --------------------------------------------------------------------------------------------

    @rule(verdict=st.sampled_from(("promote", "promote", "reject", "undecided")))
    def adapt(self, verdict: str) -> None:
        self.live.verdict = verdict
        adapting = self.service.adapt("text", wait=True, actor="m")
        known = alive(self.ledger.born)
        if not self.ledger.adapting:
            self.refused(Conflict, adapting)
            return
        answers = self.live.answers(ASKED)
        done = self.do(adapting)
        if len(known) < 2 or len({one.label for one in known.values()}) < 2:
            assert (done["verdict"], done["version"]) == ("undecided", self.ledger.live)
            return
        if done["reasons"] == ["no label was learned since the last adaptation"]:
            assert (done["verdict"], done["version"]) == ("undecided", self.ledger.live)
            return
        number = done["version"]
        assert done["verdict"] == verdict
        self.ledger.save(number, adapter=number, candidate=True, verdict=verdict, trained=self.ledger.born,
                         start=self.ledger.adapter)
        if verdict == "promote":
            self._promoted(number, answers)

    @precondition(lambda self: any(v.candidate for v in self.ledger.versions.values()))
    @rule(which=WHICH, force=st.booleans())
    def promote(self, which: int, force: bool) -> None:
        numbers = [v.number for v in self.ledger.versions.values() if v.candidate] + [1]
        target = self.ledger.versions[numbers[which % len(numbers)]]
        promoting = self.service.promote("text", to=target.number, force=force, reason="", actor="m")
        answers = self.live.answers(ASKED)
        if target.retired:
            self.refused(Refused, promoting)
        elif not target.candidate or target.promoted:
            self.refused(Conflict, promoting)
        elif target.verdict != "promote" and not force:
            self.refused(Refused, promoting)
        else:
            self.do(promoting)
            self._promoted(target.number, answers)

    def _promoted(self, number: int, answers: Any) -> None:
        with self.live.parts.reader.connect() as connection:
            saved = registry.version(connection, number).parent
        assert saved is not None and saved not in self.ledger.versions
        self.ledger.promote(number, saved)
        self.ledger.versions[saved].answers = answers
        self.ledger.versions[number].answers = self.live.answers(ASKED)

    # -- forget ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ledger.events)
    @rule(kind=st.sampled_from(("event", "event", "source", "subject", "label", "since")), which=WHICH, source=SOURCE,
          label=LABEL, subject=st.sampled_from(("p1", "p2", "nobody")))
    def forget(self, kind: str, which: int, source: str, label: str, subject: str) -> None:
        recent = self.ledger.marks[-1 - which % min(5, len(self.ledger.marks))].at
        value = {"event": self.pick(which).id, "source": source, "subject": subject, "label": label, "since": recent}[kind]
        gone, before = self.ledger.selected(kind, value), self.ledger.live
        done = self.do(self.service.forget("text", selector={kind: value}, reason="", actor="m"))
        assert done["removed"]["event"] == len(gone)
        retired = self.ledger.forget(gone)
        assert set(done["versions"]["retired"]) == retired
        assert (done["versions"]["before"], done["versions"]["live"]) == (before, self.ledger.live)
        if gone:
            assert set(done["checks"]["tables"].values()) == {0}

    # -- restarts ----------------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(("told", "died", "died and lost what is derived")))
    def restart(self, how: str) -> None:
        if how == "told":
            answers = self.live.answers(ASKED)
            self.live.close()
            self.live = Live(self.live.folder)
            assert self.live.answers(ASKED) == answers, "equal bits"
            return
        self.lives += 1
        folds = self.live.folds()
        left = self.live.died(self.folder / f"life-{self.lives}")
        if how != "died":
            shutil.rmtree(left / "checkpoints", ignore_errors=True)
        self.live = Live(left)
        if not self.ledger.forgot:
            assert self.live.folds() == folds, "what labels told is kept, and not asked again"

    # -- what holds after every step ---------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert self.live.failed == [] and self.live.problems.now() == []
        status = self.service.status()
        mine = status["domains"]["text"]
        known = alive(self.ledger.born)
        assert status["seq"] == self.ledger.seq
        assert (mine["version"], mine["memory"], mine["labels"], mine["learn_lag"]) == (
            self.ledger.live, len(known), len({one.label for one in known.values()}), 0)
        if self.ledger.events:
            self.ledger.marks.append(Mark(time.time(), self.ledger.born, self.ledger.live, self.live.folds()))

    @invariant()
    def memory_is_what_is_alive(self) -> None:
        known = alive(self.ledger.born)
        counts = Counter(one.label for one in known.values())
        head = self.do(self.service.memory("text"))["heads"]["label"]
        assert (head["rows"], head["labels"]) == (len(known), dict(counts))
        with self.live.parts.reader.connect() as connection:
            live = registry.live(connection, 1)
            found = list(connection.execute(alive_rows(1, lineage(connection, live.branch))))
        self._are(found, known)
        memory = self.live.served.learner.state.heads["label"].memory
        assert sorted(memory.ids[np.flatnonzero(memory.retrievable)].tolist()) == sorted(r.id for r in found)

    def _are(self, rows: list[Any], known: dict[str, Any]) -> None:
        seqs = {event.seq: event.id for event in self.ledger.events.values()}
        assert [(seqs[r.event], r.target, r.source) for r in rows] == [
            (event, one.label, one.teacher) for event, one in known.items()]

    @invariant()
    def the_newest_versions_are_what_they_were(self) -> None:
        self._versions_are(2)

    def _versions_are(self, newest: int) -> None:
        with self.live.parts.reader.connect() as connection:
            stored = registry.versions(connection, 1)
            assert [v.number for v in stored] == sorted(self.ledger.versions)
            for one in stored[-newest:]:
                mine = self.ledger.versions[one.number]
                self._are(list(connection.execute(alive_rows(1, lineage(connection, one.branch, one.seq)))), alive(mine.born))
                assert (one.parent, bool(one.metrics.get("retired"))) == (mine.parent, mine.retired), one.number

    @invariant()
    def nothing_that_was_acknowledged_is_lost(self) -> None:
        with self.live.parts.reader.connect() as connection:
            events = {r.id: r for r in connection.execute(select(t.event))}
            labels = connection.execute(select(t.label, t.event.c.id).join(t.event, t.event.c.seq == t.label.c.event)
                                        .order_by(t.label.c.seq)).all()
            holds = set(connection.execute(select(t.hold.c.source).where(t.hold.c.what == "learning")).scalars())
        assert events.keys() == self.ledger.events.keys()
        for event in self.ledger.events.values():
            stored = events[event.id]
            source = t.FORGOTTEN if event.forgotten else event.source
            assert (stored.seq, stored.source, event.text in stored.payload) == (event.seq, source, not event.forgotten)
        assert [(r.seq, r.id, r.label, r.source, bool(r.held)) for r in labels] == [
            (one.seq, one.event, f'"{one.label}"', one.teacher, one.seq in self.ledger.waiting) for one in self.ledger.labels]
        assert holds == self.ledger.holds

    @invariant()
    def history_only_grows(self) -> None:
        lines = select(t.action.c.id, t.action.c.at, t.action.c.what, t.action.c.before, t.action.c.after)
        with self.live.parts.reader.connect() as connection:
            now = [tuple(r) for r in connection.execute(lines.order_by(t.action.c.id))]
            answered: dict[int, list[int]] = {}
            for r in connection.execute(select(t.prediction).order_by(t.prediction.c.id)):
                answered.setdefault(r.event, []).append(r.version)
        assert now[:len(self.before)] == self.before
        self.before = now
        wanted = {e.seq: e.versions for e in self.ledger.events.values() if e.versions and not e.forgotten}
        assert answered == wanted, "which version answered which event"

    def _twin_says_the_same(self) -> None:
        """A store that learned just this lineage answers the same, folds and adapter given."""
        ours = self.live.answers(ASKED)
        twin = Live(self.folder / "twin")
        try:
            ids: dict[str, str] = {}
            for one in self.ledger.born:
                event, given = one.label.event, {"label": one.label.label}
                if event in ids:
                    twin.do(twin.service.feedback("text", [{**given, "event": ids[event]}], source=one.label.teacher))
                else:
                    sent = {**given, "text": self.ledger.events[event].text, "source": one.label.teacher}
                    ids[event] = twin.do(twin.service.events("text", [sent], source="http"))["events"][0]
            mine, head = (live.served.learner.state.heads["label"] for live in (self.live, twin))

            def same() -> None:
                head.adopt(mine.adapter)
                head.fold = copy.deepcopy(mine.fold)
                twin.served.learner.solve()

            twin.served.learner.call(same).result(60)
            theirs = twin.answers(ASKED)
        finally:
            twin.end()
        assert (head.labels, head.learned) == (mine.labels, mine.learned)
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        for (_, one), (_, other) in zip(ours, theirs, strict=True):
            assert one == pytest.approx(other, abs=1e-6)
        assert (self.ledger.adapter == IDENTITY) == (mine.adapter.projection is None)

    # -- inside ------------------------------------------------------------------------------------------------

    @property
    def service(self) -> Any:
        return self.live.service

    def do(self, operation: Coroutine[Any, Any, Json]) -> Json:
        return self.live.do(operation)

    def refused(self, error: type[AdaptdError], operation: Coroutine[Any, Any, Json]) -> None:
        with pytest.raises(error):
            self.do(operation)

    def pick(self, which: int) -> Event:
        events = list(self.ledger.events.values())
        return events[which % len(events)]


Machine.TestCase.settings = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
test_any_history_leaves_what_the_ledger_says = Machine.TestCase
