"""What a client gets back: the answers of `POST /v1/{domain}/…` as records with types. More fields stay in `document`.

Where: between `adaptd.client` and its user. `adaptd.api.replies` says the same of the daemon's side; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from adaptd.errors import AdaptdError
from adaptd.wire import from_body

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer to one input. A None label abstains; `event` is what feedback names."""

    event: str
    label: Any
    confidence: float
    scores: Mapping[str, Any]
    cost: Mapping[str, Any]
    version: int
    seq: int
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def all(cls, document: Json) -> list[Self]:
        """Read the answer to a batch."""
        return [cls(event=one["event"], label=one["label"], confidence=one["confidence"], scores=one["scores"],
                    cost=one["cost"], version=document["version"], seq=document["seq"], document=one)
                for one in document["predictions"]]

    @property
    def evidence(self) -> list[Json]:
        """The remembered examples that weighed in, with `explain=True`; of all heads."""
        heads = self.document.get("heads", {"": self.document})
        return [one for head in heads.values() for one in head.get("evidence", ())]


@dataclass(frozen=True)
class Rejection:
    """One element that was not taken: its place among what was sent, and why."""

    index: int
    error: AdaptdError


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What became of events or labels. What is accepted is durable and learned; `held` of them wait for a resume."""

    accepted: int = 0
    duplicates: int = 0
    held: int = 0
    rejected: Sequence[Rejection] = ()
    events: Sequence[str | None] = field(default=(), repr=False)  # the daemon's ids; None for what was rejected
    seq: int | None = None

    @classmethod
    def of(cls, document: Json, start: int = 0) -> Self:
        """Read the answer to a batch whose first element is the one at `start`."""
        rejected = [Rejection(start + one["index"], from_body(one["error"])) for one in document["rejected"]]
        return cls(accepted=document["accepted"], duplicates=document["duplicates"], held=document["held"],
                   rejected=rejected, events=document["events"], seq=document["seq"])

    def __add__(self, other: Ingested) -> Ingested:
        return Ingested(accepted=self.accepted + other.accepted, duplicates=self.duplicates + other.duplicates,
                        held=self.held + other.held, rejected=[*self.rejected, *other.rejected],
                        events=[*self.events, *other.events], seq=self.seq if other.seq is None else other.seq)

    def checked(self) -> Self:
        """Return it, or raise the first rejection's error."""
        if self.rejected:
            first = self.rejected[0]
            first.error.add_note(f"element {first.index}; {len(self.rejected)} rejected in all")
            raise first.error
        return self


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A gate's verdict; `verdict` is None when the adaptation was not waited for."""

    verdict: str | None
    version: int | None
    reasons: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """The version that is live now, and the one that what was live is saved as."""

    version: int
    saved: int | None
    relearned: int | None = None
    skipped: int | None = None


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """How many labels were learned again, and how many stayed out."""

    relearned: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was forgotten, by whom, when and why, and how that was checked."""

    asked: Mapping[str, Any]
    at: float
    actor: str
    reason: str
    removed: Mapping[str, int]
    entries: int
    labels_gone: int
    versions: Mapping[str, Any]
    backups: Sequence[str]  # what may hold copies: backup files, exported models, outputs that have sent anything
    exports: Sequence[str]
    outputs: Sequence[str]
    checks: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Status:
    """What the daemon is doing; `domains[name]` has version, labels, accuracy and what else there is to know of each."""

    state: str
    pid: int
    uptime_s: float
    domains: Mapping[str, Mapping[str, Any]]
    seq: int
    chain: Mapping[str, Any]
    listening: Any
    feeds: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Mapping[str, Any]]
    problems: Sequence[Mapping[str, Any]]
