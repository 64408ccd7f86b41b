"""The records that travel along the path: frozen, keyword-only, free of any library.

An `Item` comes in (HTTP, feed, command line), is journalled and answered with a `Receipt`; a domain makes an
`Example` of its payload and targets of its label; an `Answer` goes out; `Paired` scores meet in a gate and
become a `Verdict`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal


class _Missing:
    """The label of an item that has none (``None`` would be a JSON value)."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    >>> canonical({"b": 1, "a": "é"})
    '{"a":"é","b":1}'
    """
    return _encode(value)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One element of a stream on its way in, already validated by its domain."""

    payload: Mapping[str, Any]
    source: str
    key: str | None = None  # the client's id
    label: Any = MISSING
    targets: Mapping[str, str] = field(default_factory=dict)  # the label's targets, one per head
    content: bytes = b""  # HMAC of the normalised content
    answer: Any = MISSING  # what the incumbent answered
    time: float | None = None  # seconds since the epoch, the client's clock
    subject: str | None = None

    @cached_property
    def text(self) -> str:
        """The payload as it is stored."""
        return canonical(self.payload)

    def digest(self) -> bytes:
        """Return the 16-byte digest of the content: the same id with another digest is a conflict."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).digest()


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """A label that arrives after its event, which is named by the daemon's id or by (source, key)."""

    event: str | None = None
    source: str | None = None
    key: str | None = None
    label: Any
    targets: Mapping[str, str] = field(default_factory=dict)
    teacher: str = "http"  # the source that gives the label
    first_only: bool = False  # delivered with its event again: never a correction


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """An element of a feed as it came, and why it was not taken."""

    raw: bytes
    reason: str = ""  # JSON: an error's body
    key: str | None = None  # a second delivery has the same; None: each counts
    about: str = "{}"  # JSON: what is needed beside `raw` to read it again


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one item or feedback."""

    status: Literal["accepted", "duplicate", "rejected", "unknown"]
    event: str | None = None  # the daemon's event id
    event_seq: int | None = None
    held: bool = False  # journalled, but its label waits for `resume`
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One learned row: a target for one part of one event, alive from `born` on in its lineage."""

    id: int
    event: int
    part: int
    head: str
    target: str
    born: int
    source: str
    content: bytes
    holdout: bool


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one journal entry did to the learned rows, in journal order."""

    seq: int
    domain: int
    born: Sequence[Row] = ()
    died: Sequence[int] = ()  # row ids
    admitted: bool = False  # the operator let its source go on: it is learned, whatever others taught


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What a forget took out of the tables of one domain, and what is to be done beside them."""

    domain: int
    events: Sequence[int]
    rows: Sequence[tuple[int, str, str]]  # (row, head, target)
    action: int  # the history line that keeps the certificate


@dataclass(frozen=True, kw_only=True)
class Example:
    """What an encoder reads. A domain fills the field that its encoder takes."""

    text: str | None = None
    features: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One remembered example that weighed in an answer."""

    event: str
    label: str
    taught: str  # what its event was called first: another label where that changed, or was corrected
    weight: float  # its share of the attention, 0 to 1
    similarity: float
    source: str
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What one expert says by itself, and how far it was heard."""

    expert: str
    trust: float  # its share of what the experts say together, 0 to 1
    label: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """What a rule did to an answer: it gave a label, took one away, or could not be told."""

    rule: str
    did: Literal["must", "never", "failed"]
    label: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeadAnswer:
    """One head's answer: the label (None = abstained), calibrated confidence, scores of the best labels."""

    label: str | None
    confidence: float
    scores: Mapping[str, float]
    reason: str | None = None  # why it abstained
    evidence: Sequence[Evidence] = ()
    voices: Sequence[Voice] = ()
    rules: Sequence[Ruled] = ()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A domain's answer to one event, before rendering."""

    event: str
    heads: Mapping[str, HeadAnswer]
    cost: Mapping[str, Any]
    truncated: bool = False

    @property
    def label(self) -> Any:
        """The single head's label, or a mapping of all heads' labels."""
        labels = {name: answer.label for name, answer in self.heads.items()}
        return next(iter(labels.values())) if len(labels) == 1 else labels

    @property
    def confidence(self) -> float:
        """The confidence of the least certain head."""
        return min(answer.confidence for answer in self.heads.values())


@dataclass(frozen=True, kw_only=True)
class Said:
    """What an event was answered with at the time: labels by head (None = abstained) and the confidence it stated."""

    labels: Mapping[str, str | None]
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Candidate and champion on the same held-out rows: 1 where right, 0 where wrong, row by row."""

    candidate: Sequence[int]
    champion: Sequence[int]
    classes: Sequence[str]
    earlier: Sequence[int] = ()  # the number of rows of each earlier try since the last promotion: tries add up


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A gate's judgement, with its reasons in words and the figures behind them."""

    decision: Literal["promote", "reject", "undecided"]
    reasons: Sequence[str]
    evidence: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[str, str, str], None]  # takes a problem's code, message and hint


@dataclass(frozen=True, kw_only=True)
class Message:
    """What an output sends: `body` is what the other side reads, `id` the same at every delivery."""

    id: str
    kind: str  # prediction, verdict, alert, question
    about: str  # what orders it among others: the event, or the domain
    body: Mapping[str, Any]

    def raw(self) -> bytes:
        """Return it as JSON."""
        return canonical({"id": self.id, "kind": self.kind, **self.body}).encode()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is wrong now, for `status`."""

    code: str
    message: str
    since: float
    hint: str = ""
    subject: str = ""  # what is wrong, where the message's words change; else the message is it


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What a sink is told."""

    id: str  # of this alert: the same at every try
    key: str  # of what it is about: the same while that lasts, and when it is over
    kind: str  # problem, resolved, demote, or a verdict: promote, reject, undecided
    code: str  # the problem's, or "verdict"
    subject: str
    message: str
    hint: str
    since: float
    at: float
    host: str
    store: str  # the state folder

    def body(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)
