"""What goes in over HTTP: these models validate, and are the half of `/openapi.json`. What goes out: `adaptd.api.replies`.

Elements of `inputs`, of events and of feedback are judged one by one by `adaptd.ingest`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from adaptd.api.errors import Unprocessable
from adaptd.clock import moment
from adaptd.grants import ROLES

Reason = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$", description="why, for the history")]
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Field(ge=1, lt=1 << 63, description="a version's number")]
WRITTEN = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})
Moment = Annotated[float, WRITTEN, Field(description="ISO 8601 with a zone, or seconds since the epoch")]
Since = Annotated[int | float, WRITTEN, Field(description="a seq (an integer), ISO 8601 with a zone, or seconds since the epoch "
                                                          "(with a decimal point)")]
Sources = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=1000)]
Events = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=1000)]
SEARCH_LIMIT, REVIEW_LIMIT = 1000, 500


class Body(BaseModel):
    """A request's body: exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Query(BaseModel):
    """A request's query string: strings that are read as what they stand for, no unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Given(BaseModel):
    """What a client's stream holds: more fields may join."""

    model_config = ConfigDict(extra="allow")


class Nothing(Body):
    """No fields."""


class NoQuery(Query):
    """No query string."""


class Predict(Body):
    """Inputs to answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": [{"text": "where is my card?"}]}]})
    inputs: Annotated[list[Any], Field(min_length=1, description="objects like an event, without label")]
    explain: bool = Field(False, description="name the remembered examples that weighed in")
    min_seq: Annotated[int, Field(ge=0, lt=1 << 63, description="wait until this seq is learned")] | None = None


class Rank(Body):
    """Candidates to order for a user."""

    model_config = ConfigDict(json_schema_extra={
        "examples": [{"user": "u1", "candidates": [{"item": "i1", "text": "Toy Story"}], "k": 1}]})
    user: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$", description="anybody; who is new is, too")]
    candidates: Annotated[list[Any], Field(min_length=1, max_length=1000, description="objects like an event, without label")]
    k: Annotated[int, Field(ge=1, le=1000, description="so many of them, the best")] | None = None
    diversity: float = Field(0.0, ge=0.0, le=1.0, description="0: by score alone, to 1: the least alike", strict=False)


class Event(Given):
    """One element of a stream; the fields that are not named here are the payload, which the domain reads."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "42", "text": "card lost", "label": "lost_card"}]})
    id: str | int | None = Field(None, description="the client's id: the same (source, id) counts once")
    text: str | None = None
    image: Any = Field(None, description='of a vision domain: {"$base64": …}, or {"$path": …} below a configured folder')
    audio: Any = Field(None, description="of a speech domain, in the same way")
    label: Any = None
    answer: Any = Field(None, description="what the model in production answered")
    time: str | float | None = Field(None, description="ISO 8601 with a zone, or seconds since the epoch")
    source: str | None = None
    subject: str | None = Field(None, description="whom it is about")


class Feedback(Body):
    """A label for an earlier event, which is named by the daemon's id or by (source, id).

    `teacher` is who gives it, where that is not the client: `review` or `review:NAME` for what was asked for by review.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"event": "…", "label": "lost_card"}]})
    event: str | None = None
    source: str | None = None
    id: str | int | None = None
    label: Any
    teacher: str | None = Field(None, description="who gives the label; without it whoever sends it")


class Adapt(Body):
    """An adaptation on demand."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"wait": True}]})
    wait: bool = Field(False, description="answer when the gate has judged")
    consolidate: bool = Field(False, description="tune a copy of the encoder's upper blocks instead")
    weak: bool = Field(False, description="try the weak labels that wait instead: those are learned that help the holdout")
    pseudo: bool = Field(False, description="propose labels for unlabelled events first, then try them like weak ones")


class Cancel(Body):
    """The end of an adaptation."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "the machine is needed"}]})
    reason: Reason = ""


class Snapshot(Body):
    """A name for the live state."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "before the campaign"}]})
    reason: Reason = ""


class Rollback(Body):
    """The way back, to a version or to what was live at a moment; without `to` and `at` one step."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": 7, "reason": "poisoned feed"},
                                                              {"at": "2026-05-04T14:05:00Z", "and_replay": True,
                                                               "except_sources": ["intern"]}]})
    to: Number | None = None
    at: Moment | None = None
    reason: Reason = ""
    and_replay: bool = Field(False, description="learn again what came since, but for except_sources, which are held")
    except_sources: Sources = []

    @field_validator("at", mode="before")
    @classmethod
    def _moment(cls, at: Any) -> float | None:
        return None if at is None else moment(at, "at")

    @model_validator(mode="after")
    def _one_way(self) -> Rollback:
        if self.to is not None and self.at is not None:
            raise Unprocessable("to and at both given", field="at", hint="name a version with to, or a moment with at")
        if self.except_sources and not self.and_replay:
            raise Unprocessable("except_sources is about a replay", field="except_sources", hint='add "and_replay": true')
        return self


class Replay(Body):
    """Labels to learn again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"since": "2026-05-04T14:05:00Z", "except_sources": ["intern"]}]})
    since: Since
    except_sources: Sources = []
    except_events: Events = []
    reason: Reason = ""

    @field_validator("since", mode="before")
    @classmethod
    def _seq_or_moment(cls, since: Any) -> int | float:
        whole = isinstance(since, int) and not isinstance(since, bool)
        return since if whole else moment(since, "since")


class Promote(Body):
    """A candidate to make live."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": 9, "force": True, "reason": "known new traffic"}]})
    to: Number
    force: bool = Field(False, description="even where the gate refused")
    reason: Reason = ""


class Switch(Body):
    """Whose answers clients use from now on: adaptd's, or the incumbent's again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "better for a month"}]})
    back: bool = Field(False, description="the incumbent's again")
    reason: Reason = ""


class Forget(Body):
    """Which events to forget: exactly one of event, source, subject, label, since."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"subject": "customer 17", "reason": "their request"}]})
    event: Name | None = Field(None, description="one event, by the daemon's id")
    source: Name | None = Field(None, description="all that came from it")
    subject: Name | None = Field(None, description="all that is about it")
    label: Name | None = Field(None, description="all that was ever taught it")
    since: str | float | None = Field(None, description="all that was received from then on: ISO 8601 with a zone, or seconds")
    until: str | float | None = Field(None, description="with since: and before then")
    reason: Reason = ""


class Hold(Body):
    """What stops, or goes on again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"what": "learning", "source": "crm"}]})
    what: Literal["learning", "adaptation"] = "learning"
    source: Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$", description='"" stands for all sources')] = ""
    reason: Reason = ""


class Resume(Hold):
    """What goes on again, and what becomes of the labels that waited."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"source": "crm", "drop": True}]})
    drop: bool = Field(False, description="what waited of the source is never learned")

    @model_validator(mode="after")
    def _of_a_source(self) -> Resume:
        if self.drop and not (self.source and self.what == "learning"):
            raise Unprocessable("drop is about the labels of one source", field="drop", hint="name the source, and no other what")
        return self


class Search(Body):
    """A text to look up in the memory."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "lost card", "k": 5}]})
    text: Annotated[str, Field(min_length=1)]
    k: Annotated[int, Field(ge=1, le=SEARCH_LIMIT)] = 10


class Backup(Body):
    """Where a backup goes, on the daemon's host."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"file": "/var/backups/adaptd.tar.gz"}]})
    file: Annotated[str, Field(max_length=4096, pattern=r"^/[^\x00]*$", description="an absolute path")]
    force: bool = Field(False, description="replace the file if it is there")


class NewToken(Body):
    """A token to make: what it may do, for which domains, for which source, until when."""

    model_config = ConfigDict(json_schema_extra={"examples": [
        {"name": "crm", "roles": ["ingest"], "domains": ["tickets"], "source": "crm", "expires": "2036-01-01T00:00:00Z"}]})
    name: Name
    roles: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=len(ROLES))]
    domains: Annotated[list[Name], Field(min_length=1, max_length=500)] | None = Field(None, description="null: all")
    source: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")] | None = Field(
        None, description="the only one that it speaks for")
    expires: Moment | None = None

    @field_validator("expires", mode="before")
    @classmethod
    def _moment(cls, expires: Any) -> float | None:
        return None if expires is None else moment(expires, "expires")


class Exported(Body):
    """Where a version is exported to: a folder, or a registry's address and the model's name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "/srv/models/intents"}]})

    to: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]


class RevokeToken(Body):
    """Why a token ends."""

    reason: Reason = ""


class HistoryQuery(Query):
    """Which part of the history."""

    domain: str | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 50


class DeadQuery(Query):
    """Which of a feed's dead letters."""

    after: Annotated[int, Field(ge=0, lt=1 << 63, description="behind this id")] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class DeadIds(Body):
    """Dead letters, by their ids or all of a feed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [3, 4]}, {"all": True}]})
    ids: Annotated[list[Annotated[int, Field(ge=1, lt=1 << 63)]], Field(max_length=1000)] = []
    all: bool = False

    @model_validator(mode="after")
    def _either(self) -> DeadIds:
        if bool(self.ids) == self.all:
            raise Unprocessable("name ids, or all", field="ids", hint='send {"ids": [3, 4]} or {"all": true}')
        return self

    def chosen(self) -> list[int] | None:
        """Return the ids; None for all."""
        return None if self.all else self.ids


class ExplainQuery(Query):
    """How far an explanation goes."""

    counterfactual: bool = Field(False, description="also which records flip the answer if they are forgotten; takes seconds")


class ReviewQuery(Query):
    """How much to ask a person: a number, or as much as fits into minutes."""

    n: Annotated[int, Field(ge=1, le=REVIEW_LIMIT, description="items; 20 without it")] | None = None
    minutes: Annotated[float, Field(gt=0, le=480, allow_inf_nan=False, description="of the person's time")] | None = None

    @model_validator(mode="after")
    def _one_measure(self) -> ReviewQuery:
        if self.n is not None and self.minutes is not None:
            raise Unprocessable("n and minutes both given", field="minutes", hint="give one of them")
        return self
