"""The records that travel along the path: frozen, keyword-only, free of any library.

An `Item` comes in (HTTP, feed, command line), is journalled and answered with a `Receipt`; a domain makes an
`Example` of its payload and targets of its label; an `Answer` goes out; `Paired` scores meet in a gate and
become a `Verdict`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from json.encoder import c_make_encoder, encode_basestring, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any, Literal, TypeVar, dataclass_transform

from adaptd.words import OUTSIDE

T = TypeVar("T")


class _Missing:
    """The label of an item that has none (``None`` would be a JSON value)."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING = _Missing()


def encoder(quoted: Callable[[str], str], default: Callable[[Any], Any], *, sorts: bool) -> Callable[[Any], str]:
    """Return what `json.JSONEncoder` does without spaces and NaN: it makes C's encoder for each value, this one once."""
    made = c_make_encoder(None, default, quoted, None, ":", ",", sorts, False, False)
    return lambda value: "".join(made(value, 0))


@dataclass(frozen=True, kw_only=True)
class Blob:
    """Bytes within a payload: an image, a sound. The journal's JSON has its digest, `adaptd.blobs` the bytes."""

    data: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Its name."""
        return hashlib.sha256(self.data).hexdigest()


def _written(value: Any) -> Any:
    """Write what JSON has no word for: of a blob its digest."""
    if isinstance(value, Blob):
        return {BLOB: value.sha256}
    raise TypeError(f"{type(value).__name__} is not a JSON value")


EMPTY = hashlib.blake2b(digest_size=16)
BLOB = "$blob"  # the one key of the object that stands for a blob in a stored payload
_encode = encoder(encode_basestring, _written, sorts=True)


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN.

    >>> canonical({"b": 1, "a": "é"})
    '{"a":"é","b":1}'
    """
    if type(value) is dict and len(value) == 1:
        (name, inner), = value.items()
        if type(name) is type(inner) is str:  # a text alone, as most payloads are: the encoder takes twice as long
            return f"{{{encode_basestring(name)}:{encode_basestring(inner)}}}"
    return _encode(value)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a frozen record of which there are thousands a second: mypy alone sees that nobody changes it.

    What Python does for `frozen=True` takes three times as long.
    """
    return dataclass(kw_only=True, slots=True)(cls)


def columns(source: str, key: str | None, digest: bytes, content: bytes, payload: str, answer: str | None, subject: str | None,
            time: float | None) -> str:
    """Return an event's columns from `source` to `time` as JSON has them, `json.dumps` in a quarter of the time."""
    given = "null,null,null" if answer is None and subject is None and time is None else (
        f"{_quoted(answer)},{_quoted(subject)},{'null' if time is None else time + 0.0}")
    return (f'{_quoted(source)},{_quoted(key)},"{digest.hex()}","{content.hex()}",{encode_basestring_ascii(payload)},{given}')


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


@record
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
    example: Example | None = None  # what the domain made of the payload
    blobs: Sequence[Blob] = ()  # those of the payload

    text: str = field(init=False)  # the payload as it is stored
    digest: bytes = field(init=False)  # 16 bytes, of the text: the same id with another digest is a conflict
    answered: str | None = field(init=False)  # the answer as it is stored
    columns: str = field(init=False)  # those of the journal from `source` to `time`, as the chain is bound to them

    def __post_init__(self) -> None:
        self.text = text = canonical(self.payload)  # type: ignore[misc]
        digest = EMPTY.copy()  # quicker than a new one
        digest.update(text.encode())
        self.digest = digest.digest()  # type: ignore[misc]
        self.answered = None if self.answer is MISSING else canonical(self.answer)  # type: ignore[misc]
        self.columns = columns(  # type: ignore[misc]
            self.source, self.key, self.digest, self.content, text, self.answered, self.subject, self.time)

    @classmethod
    def stored(cls, *values: Any) -> Item:
        """Return one that was read elsewhere, by its `STORED`: what the domain made of its payload is not with it."""
        made = cls.__new__(cls)
        made.payload, made.example, made.blobs, made.answer = {}, None, (), MISSING  # type: ignore[misc]
        (made.text, made.digest, made.columns, made.source, made.key, made.label, made.targets, made.content,  # type: ignore[misc]
         made.answered, made.subject, made.time) = values  # type: ignore[misc]
        return made

    @property
    def size(self) -> int:
        """About how many bytes it takes in the store."""
        return len(self.text) + (sum(len(blob.data) for blob in self.blobs) if self.blobs else 0)


STORED = ("text", "digest", "columns", "source", "key", "label", "targets", "content", "answered", "subject", "time")


class Columns:
    """Items that were read elsewhere, by columns, which are a tenth of the work of objects; they are made when asked for."""

    def __init__(self, columns: Iterable[Sequence[Any]]) -> None:
        self.of = dict(zip(STORED, columns, strict=True))

    def __len__(self) -> int:
        return len(self.of["text"])

    def __iter__(self) -> Iterator[Item]:
        return map(Item.stored, *self.of.values())

    @property
    def size(self) -> int:
        """About how many bytes they take in the store."""
        return sum(map(len, self.of["text"]))


def labelled(items: Iterable[Item] | Columns) -> bool:
    """Say whether one of them has a label."""
    labels = items.of["label"] if isinstance(items, Columns) else [item.label for item in items]
    return any(label is not MISSING for label in labels)


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


@record
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

    @property
    def place(self) -> int:
        """Its event and part as one number: what has a vector of its own."""
        return self.event + self.part * PARTS


PARTS = 1 << 40  # events that a store may have; their first, mostly only, part is named as the event is


def place(event: Any, part: Any) -> Any:
    """Return what names a part of an event, of columns too.

    >>> place(7, 0), event_of(place(7, 3)), part_of(place(7, 3))
    (7, 7, 3)
    """
    return event + part * PARTS


def event_of(place: Any) -> Any:
    """Return the event of a place."""
    return place % PARTS


def part_of(place: Any) -> Any:
    """Return the part of a place."""
    return place // PARTS


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What one journal entry did to the learned rows, in journal order."""

    seq: int
    domain: int
    born: Sequence[Row] = ()
    died: Sequence[int] = ()  # row ids
    admitted: bool = False  # the operator let its source go on: it is learned, whatever others taught


@dataclass
class Outcome:
    """What an append did: one receipt per item, the learner's work, the newest seq."""

    receipts: list[Receipt]
    learned: list[Learned]
    seq: int
    new: Sequence[str] = ()  # in the place of receipts: the ids of the items' events, all of which are new and have no label


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What a forget took out of the tables of one domain, and what is to be done beside them."""

    domain: int
    events: Sequence[int]
    rows: Sequence[tuple[int, str, str]]  # (row, head, target)
    action: int  # the history line that keeps the certificate


@record
class Example:
    """What an encoder reads: a domain fills the field of its kind (`Domain.reads`). A text beside another is for people."""

    text: str | None = None
    features: Mapping[str, float | str] | Sequence[float] | None = None  # numbers and categories by name, or in a fixed order
    image: bytes | None = None  # a file: PNG, JPEG …
    audio: bytes | None = None  # a file: WAV, FLAC, Ogg …


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One remembered example that weighed in an answer."""

    event: str
    label: Any
    taught: Any  # what its event was called first: another label where that changed, or was corrected
    weight: float  # its share of the attention, 0 to 1
    similarity: float
    source: str
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Voice:
    """What one expert says by itself, and how far it was heard."""

    expert: str
    trust: float  # its share of what the experts say together, 0 to 1
    label: Any
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

    label: Any
    confidence: float
    scores: Mapping[str, float]
    reason: str | None = None  # why it abstained
    evidence: Sequence[Evidence] = ()
    voices: Sequence[Voice] = ()
    rules: Sequence[Ruled] = ()
    path: Sequence[str] = ()  # from the broadest label to this one, where a vocabulary has broader ones
    instead_of: str | None = None  # the label that was not sure enough, where a broader one is answered
    replies: Mapping[str, str] = field(default_factory=dict)  # the whole text behind each shortened key that is named here
    withheld: Sequence[Mapping[str, Any]] = ()  # spans that are not sure enough, each with the reason

    def whole(self, label: str) -> str:
        """Return the text that a reply's key stands for."""
        return self.replies.get(label, label)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a document that was found for an event."""

    file: str  # below the folder
    line: int  # its first, from 1 on
    heading: str
    text: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A domain's answer to one event, before rendering."""

    event: str
    heads: Mapping[str, HeadAnswer]
    cost: Mapping[str, Any]
    truncated: bool = False
    passages: Sequence[Passage] = ()  # of the domain's documents, the nearest first

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
    """What an event was answered with at the time: targets by head (None = abstained) and the confidence it stated."""

    labels: Mapping[str, str | Mapping[int, str] | None]  # of a head that tags words the tag of each, none of what is outside
    confidence: float

    def to(self, row: Row) -> str | None:
        """Return what was answered where a row is taught."""
        answer = self.labels[row.head]
        return answer.get(row.part, OUTSIDE) if isinstance(answer, Mapping) else answer


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
class Remembered:
    """One remembered example as a generator is given it."""

    text: str  # what was asked
    reply: str  # what was taught, whole
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What a text is to be written for, and the remembered examples nearest to it, the nearest first."""

    text: str
    remembered: Sequence[Remembered] = ()


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text that was written; None, with the reason, where none can be."""

    text: str | None
    confidence: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a generator is trained on. Held-out pairs are not among it."""

    pairs: Sequence[tuple[str, str]]  # a text, and what was taught of it, whole; the oldest first
    seed: int
    device: str  # "cpu" or "cuda"
    progress: Callable[[float, str], None]  # share done, words
    losses: list[float] = field(default_factory=list)  # a generator appends one an epoch: for who draws the course


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One event as an observer sees it: what is said of it now."""

    event: str
    at: float  # the client's time, else when it came; seconds since the epoch
    source: str
    payload: Mapping[str, Any]
    labels: Mapping[str, Any]  # by head: what was taught, else what was answered
    taught: frozenset[str] = frozenset()  # the heads of which a label was taught
    answered: Mapping[str, Any] = field(default_factory=dict)  # by head: what was answered before that, where it was asked


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What an observer has to say: figures as JSON, and what is wrong, for as long as it is."""

    figures: Mapping[str, Any]
    problems: Sequence[Problem] = ()


@dataclass(frozen=True, kw_only=True)
class Taught:
    """One learned row as a ranker sees it."""

    row: int
    event: int
    payload: Mapping[str, Any]
    head: str
    label: Any


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One thing that may be recommended: its payload, and the vector of its text."""

    id: str
    payload: Mapping[str, Any]
    vector: Any


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Who wants how many of which candidates, and how much alike they may be (0: as they come, to 1: least alike)."""

    user: str
    candidates: Sequence[Candidate]
    k: int
    diversity: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate in its place, and what its score is made of."""

    id: str
    score: float
    why: Mapping[str, float] = field(default_factory=dict)


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
