"""What goes out over HTTP: what a client may rely on, and the other half of `/openapi.json`. What goes in: `adaptd.api.requests`.

The answers are the daemon's and are not validated again; more fields may join.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """An answer's body: more fields may join."""

    model_config = ConfigDict(extra="allow")


class ErrorDetail(Answer):
    """What is wrong, and the cure."""

    code: str
    message: str
    hint: str
    field: str | None = None


class Error(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class Rejection(BaseModel):
    """One element that was not accepted."""

    index: int
    error: ErrorDetail


class Ingested(Answer):
    """What became of a batch. A 202 means durable and learned."""

    accepted: int
    duplicates: int
    held: int
    rejected: list[Rejection]
    events: list[str | None]
    seq: int | None


class PredictionBody(Answer):
    """The answer to one input; a null label abstains."""

    event: str
    label: Any
    confidence: float
    scores: dict[str, Any]
    cost: dict[str, Any]


class Predictions(Answer):
    """Answers, the version that gave them and the seq it had learned."""

    version: int
    seq: int
    predictions: list[PredictionBody]


class Explained(Answer):
    """What answered an event and when, its labels, and what would be answered now, because of what."""

    event: str
    received: float
    live_then: int | None = Field(description="the version that was live when it came")
    answers: list[dict[str, Any]]
    labels: list[dict[str, Any]]
    now: dict[str, Any]
    counterfactual: dict[str, dict[str, Any]] | None = Field(None, description="per head; when it was asked for")


class ReviewItem(Answer):
    """An event to label: the guess, why it is asked about, and how many errors its label is expected to prevent."""

    event: str
    payload: dict[str, Any]
    text: str | None
    label: Any = Field(description="the guess, whatever limit would withhold it; null where no label is known")
    confidence: float
    scores: dict[str, Any]
    expected: float = Field(description="errors in the pool that its label is expected to prevent, beside those before it")
    like: int = Field(description="others in the pool that are like it")
    reason: str


class ToReview(Answer):
    """What to ask a person about, the most useful first."""

    items: list[ReviewItem]
    pool: int = Field(description="events that were answered and have no label, the newest 5,000 at most")
    pace_s: float = Field(description="what a label has taken lately")
    teacher: str = Field(description="send it back with the labels, by itself or followed by a colon and a name")
    version: int
    seq: int


class ReviewReport(Answer):
    """What review's labels were, per teacher, and what they did to later answers."""

    teachers: list[dict[str, Any]]
    labels: int
    later: dict[str, int] | None = Field(description="null where nothing can be said: nobody else labelled later events")


class Adapted(Answer):
    """A gate's verdict, or that an adaptation has started."""

    verdict: Literal["promote", "reject", "undecided"] | None = None
    version: int | None = None
    reasons: list[str] = []


class Cancelled(Answer):
    """An adaptation that was ended."""

    cancelled: str


class TokenShown(Answer):
    """What a token allows and what became of it."""

    name: str
    state: Literal["valid", "expired", "revoked"]
    roles: list[str]
    domains: list[str] | None
    source: str | None
    expires: float | None
    used: float | None


class MadeToken(TokenShown):
    """A new token, shown this once."""

    token: str


class Tokens(Answer):
    """All tokens, oldest first."""

    tokens: list[TokenShown]


class VersionNumber(Answer):
    """The version that is meant."""

    version: int


class Switched(VersionNumber):
    """Whose answers clients use now (0: the incumbent's), and how the two compare."""

    incumbent: dict[str, Any] | None


class RolledBack(VersionNumber):
    """The version that is live now, and the one that what was live is saved as; with and_replay as for a replay."""

    saved: int | None
    relearned: int | None = None
    skipped: int | None = None


class Replayed(Answer):
    """How many labels were learned again, and how many stayed out: excepted, on hold, or taken no more."""

    relearned: int
    skipped: int


class Certificate(Answer):
    """What was forgotten, by whom, when and why, and how that was checked."""

    asked: dict[str, Any]
    at: float
    actor: str
    reason: str
    removed: dict[str, int]
    entries: int
    labels_gone: int
    versions: dict[str, Any]
    backups: list[str]
    exports: list[str]
    outputs: list[str]
    checks: dict[str, Any]


class Versions(Answer):
    """A domain's versions, oldest first."""

    versions: list[dict[str, Any]]


class Difference(Answer):
    """What a version has more and less than another; per head, the figures as pairs."""

    labels: dict[str, dict[str, list[str]]]
    rows: dict[str, Any]
    metrics: dict[str, list[Any]]


class Resumed(Answer):
    """How many labels that waited are learned now, or dropped."""

    learned: int
    dropped: int | None = None


class History(Answer):
    """Who changed what, newest first."""

    actions: list[dict[str, Any]]


class Found(Answer):
    """The nearest remembered examples."""

    results: list[dict[str, Any]]


class Status(Answer):
    """What the daemon is doing."""

    state: str
    pid: int
    uptime_s: float
    domains: dict[str, dict[str, Any]]
    seq: int
    chain: dict[str, Any]
    listening: Any
    feeds: dict[str, dict[str, Any]]
    outputs: dict[str, dict[str, Any]]
    problems: list[dict[str, Any]]


class Part(Answer):
    """How a part of the daemon does, and how long ago its loop turned."""

    state: str
    age_s: float


class Health(Answer):
    """The daemon's state and that of its parts."""

    state: str
    parts: dict[str, Part]


class BackedUp(Answer):
    """What a verified backup holds."""

    file: str
    bytes: int
    schema_: str = Field(alias="schema")
    seq: int
    domains: dict[str, int]
    chain: dict[str, Any] | None
    counts: dict[str, int]
    unsound: list[str]


class Feeds(Answer):
    """The feeds by name."""

    feeds: dict[str, dict[str, Any]]


class Ranking(Answer):
    """Candidates, the best first, with what their scores are made of, and the seq that was learned."""

    seq: int
    ranking: list[dict[str, Any]]


class Sightings(Answer):
    """What a domain's observers say, by name."""

    observers: dict[str, dict[str, Any]]


class Outputs(Answer):
    """The outputs by name."""

    outputs: dict[str, dict[str, Any]]


class Delivered(Answer):
    """The id of a delivery that is committed, or kept among what was not taken."""

    id: str | None


class Dead(Answer):
    """What a feed gave and was not taken."""

    feed: str
    total: int
    dead: list[dict[str, Any]]


class Retried(Answer):
    """How many dead letters are in the journal now, and the ids of those that are not."""

    taken: int
    left: list[int]


class Dropped(Answer):
    """How many dead letters were let go of."""

    dropped: int


class Alive(Answer):
    """The process answers."""

    ok: bool


class Ready(Answer):
    """Every champion has answered."""

    ready: bool
