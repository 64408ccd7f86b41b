"""What a store must hold after any history: the whole of adaptd's promises in dictionaries, without a model or a database.

A lineage is the labels that were born in it, in order; the newest birth of an event is alive, the others are dead. So a
version is a tuple of births, a rollback takes such a tuple back, and a forget takes an event out of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

IDENTITY = 0  # the adapter of who never adapted


@dataclass(frozen=True)
class Label:
    """A label that the journal has."""

    seq: int
    event: str
    label: str
    teacher: str


@dataclass(frozen=True)
class Birth:
    """That a label was learned."""

    seq: int
    label: Label


Lineage = tuple[Birth, ...]


@dataclass
class Event:
    """An event that was acknowledged."""

    id: str
    seq: int
    text: str
    source: str
    key: str | None
    subject: str | None
    before: float  # the clock, just before it came
    versions: list[int] = field(default_factory=list)  # that answered it
    forgotten: bool = False


@dataclass
class Version:
    """A version, and what it answered while it was live, where that can be told."""

    number: int
    born: Lineage
    adapter: int
    parent: int | None
    at: int  # the newest seq when it was made
    candidate: bool = False
    promoted: bool = False
    verdict: str = ""
    trained: Lineage = ()
    start: int = IDENTITY  # the adapter that its training began from
    retired: bool = False
    answers: Any = None


@dataclass(frozen=True)
class Mark:
    """What was live at a moment."""

    at: float
    born: Lineage
    version: int
    folds: Any  # what outcomes had made of the state


def alive(born: Iterable[Birth]) -> dict[str, Label]:
    """Return the label of each event that is remembered, oldest birth first."""
    found: dict[str, Label] = {}
    for one in born:
        found.pop(one.label.event, None)
        found[one.label.event] = one.label
    return found


class Ledger:
    """One domain."""

    def __init__(self) -> None:
        self.seq = 0
        self.events: dict[str, Event] = {}
        self.labels: list[Label] = []
        self.waiting: set[int] = set()  # seqs of labels that were not learned yet
        self.holds: set[str] = set()
        self.adapting = True
        self.born: Lineage = ()
        self.started = 0  # the newest seq when the branch that grows began
        self.live = 1
        self.adapter = IDENTITY
        self.versions = {1: Version(1, (), IDENTITY, None, 0)}
        self.marks: list[Mark] = []

    @property
    def forgot(self) -> bool:
        """Whether anything was ever forgotten."""
        return any(event.forgotten for event in self.events.values())

    # -- events and labels -------------------------------------------------------------------------------------

    def find(self, source: str, key: str | None) -> Event | None:
        """Return the event that has this id."""
        return next((e for e in self.events.values() if key is not None and (e.source, e.key) == (source, key)), None)

    def enter(self, text: str, source: str, key: str | None, subject: str | None, before: float) -> Event:
        """An event is new; its id is not known yet."""
        self.seq += 1
        return Event("", self.seq, text, source, key, subject, before)

    def waits(self, event: str) -> bool:
        """Say whether the newest label of an event waits."""
        mine = self.of(event)
        return bool(mine) and mine[-1].seq in self.waiting

    def of(self, event: str) -> list[Label]:
        """Return an event's labels in the order of the journal."""
        return [one for one in self.labels if one.event == event]

    def again(self, event: str, label: str) -> str:
        """Say what becomes of a label that comes with an event's second delivery."""
        known = self.of(event)
        if known:
            return "duplicate" if label in {one.label for one in known} else "rejected"
        return "accepted"

    def says_nothing_new(self, event: str, label: str) -> bool:
        """Say whether a late label is a no-op."""
        if not (mine := self.of(event)) or mine[-1].label != label:
            return False  # also where an older label holds again: it is said anew, and a replay is not to overrule it
        return self.waits(event) or (event in (now := alive(self.born)) and now[event].label == label)

    def held(self, teacher: str) -> bool:
        """Say whether a teacher's labels wait."""
        return bool(self.holds & {"", teacher})

    def label(self, event: str, label: str, teacher: str, *, seq: int | None = None) -> None:
        """Journal a label, with its event (`seq`) or later; learn it unless it waits."""
        if seq is None:
            self.seq += 1
        new = Label(seq or self.seq, event, label, teacher)
        self.labels.append(new)
        if self.held(teacher):
            self.waiting.add(new.seq)
        else:
            self.born += (Birth(new.seq, new),)

    def lacking(self, labels: Iterable[Label]) -> list[Label]:
        """Return the labels that the live lineage lacks and that no later one of their event overrules."""
        reached: Counter[str] = Counter()
        for one in self.born:
            reached[one.label.event] = max(reached[one.label.event], one.label.seq)
        return [one for one in labels if one.seq > reached[one.event]]

    def learn_late(self, labels: Sequence[Label]) -> None:
        """Learn labels that the journal has already."""
        for one in labels:
            self.seq += 1
            self.born += (Birth(self.seq, one),)
        self.waiting -= {one.seq for one in labels}

    def resume(self, source: str) -> int:
        """Lift a hold; return how many labels are learned."""
        self.holds.discard(source)
        if "" in self.holds:
            return 0
        due = [one for one in self.labels if one.seq in self.waiting and one.teacher not in self.holds]
        learned = self.lacking(due)
        self.learn_late(learned)
        self.waiting -= {one.seq for one in due}
        return len(learned)

    def replay(self, since: int, sources: Collection[str], events: Collection[str]) -> tuple[int, int]:
        """Learn again; return how many are learned, and how many stay out."""
        missing = self.lacking(one for one in self.labels if one.seq >= since)
        out = set(sources) | (self.holds - {""})
        due = [one for one in missing if one.teacher not in out and one.event not in events]
        self.learn_late(due)
        return len(due), len(missing) - len(due)

    # -- versions ----------------------------------------------------------------------------------------------

    def save(self, number: int, **fields: Any) -> Version:
        """The live state gets a number."""
        given: dict[str, Any] = {"born": self.born, "adapter": self.adapter, "parent": self.live, "at": self.seq, **fields}
        self.versions[number] = made = Version(number, **given)
        return made

    def step_back(self) -> int | None:
        """Return where a rollback without a target goes."""
        current = self.versions[self.live]
        since = max(current.at, self.started)
        return self.live if any(one.seq > since for one in self.born) else current.parent

    def restorable(self, number: int) -> bool:
        """Say whether a rollback to a version is taken."""
        target = self.versions[number]
        return not target.retired and (not target.candidate or target.promoted)

    def become(self, target: Version) -> None:
        """The pointer moves; learning is on hold."""
        self.live, self.born, self.adapter = target.number, target.born, target.adapter
        self.started = self.seq
        self.holds.add("")

    def promote(self, number: int, saved: int) -> None:
        """A candidate's adapter over the present memory."""
        self.save(saved)
        candidate = self.versions[number]
        candidate.promoted, candidate.parent, candidate.born, candidate.at = True, saved, self.born, self.seq
        self.live, self.adapter = number, candidate.adapter

    # -- forget ------------------------------------------------------------------------------------------------

    def selected(self, kind: str, value: Any) -> set[str]:
        """Return the events that a forget is about."""
        here = [e for e in self.events.values() if not e.forgotten]
        if kind == "label":
            return {one.event for one in self.labels if one.label == value}
        if kind == "since":
            return {e.id for e in here if e.before >= value}
        wanted = {"event": "id", "source": "source", "subject": "subject"}[kind]
        return {e.id for e in here if getattr(e, wanted) == value}

    def forget(self, gone: set[str]) -> set[int]:
        """Take events out of everything; return the versions that are retired by it."""
        tainted: set[int] = set()
        for one in self.versions.values():
            if one.candidate and not one.retired and (one.start in tainted or _of(one.trained, gone)):
                tainted.add(one.adapter)
        retired = {v.number for v in self.versions.values() if not v.retired and v.adapter in tainted}
        for event in gone:
            self.events[event].forgotten = True
        self.waiting -= {one.seq for one in self.labels if one.event in gone}
        self.labels = [one for one in self.labels if one.event not in gone]
        for version in self.versions.values():
            version.retired |= version.number in retired
            if _of(version.born, gone):
                version.answers = None
            version.born, version.trained = _without(version.born, gone), _without(version.trained, gone)
        self.marks = [replace(mark, born=_without(mark.born, gone)) for mark in self.marks]
        self.born = _without(self.born, gone)
        if self.live in retired:
            sound = [v for v in self.versions.values() if not v.retired and (not v.candidate or v.promoted)]
            self.live, self.adapter = sound[-1].number, sound[-1].adapter
        return retired


def _of(born: Lineage, events: Collection[str]) -> bool:
    return any(one.label.event in events for one in born)


def _without(born: Lineage, events: Collection[str]) -> Lineage:
    return tuple(one for one in born if one.label.event not in events)
