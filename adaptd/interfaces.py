"""What plugins implement: Domain (a class with defaults) and the protocols Feed, Encoder, Strategy, Gate, MemoryPolicy.

adaptd builds each from the configuration: the fields of the class are its options (`adaptd.plugins.build`).
torch is named for the type checker only; importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from adaptd.errors import BadPayload
from adaptd.heads import Classify, Head
from adaptd.records import (
    Alert,
    Ask,
    Brief,
    Example,
    Lesson,
    Message,
    Observed,
    Paired,
    Prediction,
    Ranked,
    Sighting,
    Taught,
    Verdict,
    Written,
    canonical,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from adaptd.model.upper import Upper
    from adaptd.strategies.task import Task

Kind = Literal["text", "features", "image", "audio"]  # of input: a field of Example


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What one head must answer, or never, when an expression holds over payload and answer (docs/rules.md)."""

    name: str
    when: str = "true"  # CEL
    must: str | None = None  # the label
    never: Sequence[str] = ()  # the labels
    head: str | None = None  # None: the only one


class Ranker(Protocol):
    """Orders candidates for a user. What it has learned must not depend on the order in which rows came and went."""

    def learn(self, one: Taught) -> None:
        """Take in a learned row."""
        ...

    def unlearn(self, row: int) -> None:
        """Take a row out again, as if it had never come."""
        ...

    def rank(self, ask: Ask, vectors: Callable[[Sequence[int]], Mapping[int, Any]]) -> Sequence[Ranked]:
        """Return the best k of the candidates, the best first; `vectors` gives those of events."""
        ...


class Generator(Protocol):
    """Writes the texts that a `Generate` head answers with, in a process of its own. It keeps nothing of what it is given."""

    def load(self) -> None:
        """Load what it needs; once. A configuration that is wrong is a `BadConfig`."""
        ...

    def write(self, briefs: Sequence[Brief]) -> Sequence[Written]:
        """Write a text for each."""
        ...


@runtime_checkable
class Trainable(Generator, Protocol):
    """A generator that adaptations train. What training gives is kept beside its model, which stays as it is."""

    def train(self, lesson: Lesson) -> bytes:
        """Learn all pairs, beginning from the model as it is; return the weights that `adopt` takes, a safetensors file."""
        ...

    def adopt(self, weights: bytes | None) -> None:
        """Write with these weights from now on, with the model as it is for None; raise Conflict where they are another's."""
        ...

    def score(self, text: str, taught: str) -> float:
        """Say how good a text is, from 0 to 1, where that one was taught: by it held-out texts are judged."""
        ...


def normalised(text: str) -> str:
    """Return what texts that differ in case, width and spaces alone have in common.

    >>> normalised(" Ｗhat\\n IS it ")
    'what is it'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def recognised(example: Example, reads: Kind) -> str:
    """Return the normalised content of what an encoder reads: equal ones are recognised by it."""
    if reads == "features":
        return canonical(example.features)
    if reads != "text":
        return hashlib.sha256(getattr(example, reads)).hexdigest()
    return normalised(example.text or "")


class Domain(ABC):
    """One prediction problem: what its expert knows. Everything but `example` has a default."""

    name: ClassVar[str]
    reads: ClassVar[Kind] = "text"  # the field of Example that it fills: its encoder must read the same
    heads: Mapping[str, Head] = {"label": Classify()}  # an instance's own, where its options decide
    samples: ClassVar[Sequence[Mapping[str, Any]]] = ()  # events as they come in, some labelled: checks begin with them
    rules: ClassVar[Sequence[Rule]] = ()  # those of the configuration come before
    ranker: ClassVar[type[Ranker] | None] = None  # what `rank` asks, where the domain recommends
    evidence: int = 0  # how many remembered examples `render`, and a generator, are given with every answer

    @abstractmethod
    def example(self, payload: Mapping[str, Any]) -> Example:
        """Give the encoder what it reads; raise `BadPayload` to reject the event."""

    def targets(self, label: Any) -> Mapping[str, Any]:
        """Turn a label (any JSON) into one target per head."""
        if len(self.heads) == 1:
            return {next(iter(self.heads)): label}
        if not isinstance(label, Mapping):
            raise BadPayload("a label of this domain is an object", field="label",
                             hint=f"give one or more of {sorted(self.heads)}")
        return label

    def content(self, payload: Mapping[str, Any]) -> str:
        """Return the normalised content by which equal examples are recognised (holdout, duplicates)."""
        return recognised(self.example(payload), self.reads)

    def generator(self) -> Generator:
        """Return what writes the texts of a `Generate` head; it may import torch, as only its own process asks for it."""
        raise NotImplementedError

    def render(self, prediction: Prediction) -> Mapping[str, Any]:
        """Add to, or override, the fields of one element of the HTTP answer."""
        return {}


@dataclass(frozen=True, kw_only=True)
class FeedItem:
    """One raw element of a feed and the cursor after it; `raw`, JSON, is kept when it is not taken."""

    value: Any  # parsed JSON, or None when `error` says why not
    cursor: str  # JSON
    raw: bytes
    error: str | None = None
    key: str | None = None  # its id where it names none: the same at every delivery
    about: Mapping[str, Any] = field(default_factory=dict)  # what came beside it (topic, headers …): "@topic" in `fields`


class Feed(Protocol):
    """A stream that is followed. The cursor moves in the same transaction as the events.

    A class whose `needs_id` is true has no stable offset: its elements must name their ids (`[feeds.X.fields] id`). Where
    `needs_key` is true that holds for elements that come without a key.
    """

    name: ClassVar[str]

    def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield batches from the cursor on, for ever; an empty batch means "connected, nothing new".

        The next batch is asked for when the last one is committed: what stands behind a `yield` may acknowledge it. When
        the feed fails it raises; it is read again from the newest cursor, later and later.
        """
        ...

    def lag(self) -> int | None:
        """Bytes or messages not yet read, when known."""
        ...


class AlertSink(Protocol):
    """Where alerts are sent."""

    name: ClassVar[str]

    def send(self, alert: Alert) -> None:
        """Send one alert and return when it is taken; raise when it is not. Called in a thread where it may wait."""
        ...


class Observer(Protocol):
    """Watches the events of a domain, whole: it keeps nothing, so no rollback, forget or restart leaves anything behind."""

    name: ClassVar[str]

    def look(self, seen: Sequence[Observed]) -> Sighting:
        """Return figures and problems of the newest events, in the order of their time. Pure."""
        ...


@dataclass(frozen=True, kw_only=True)
class Risk:
    """How a feed's source may lose what it has acknowledged to its producers, and the cure."""

    message: str
    hint: str


@runtime_checkable
class Examined(Protocol):
    """A feed that can say whether its source is set up to lose nothing."""

    async def risks(self) -> Sequence[Risk]:
        """Look at the source, over a connection of its own."""
        ...


@runtime_checkable
class Delivered(Protocol):
    """A feed that is sent its elements, over HTTP: `POST /v1/feeds/{name}/hook`, to which no token lets in."""

    def announced(self, headers: Mapping[str, str]) -> None:
        """Raise BadSignature where the headers alone show that who sends may not; the body is not read then."""
        ...

    def signed(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise BadSignature unless who sends may; the names of headers are in small letters."""
        ...

    async def deliver(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """Take the body in; return its id, where it has one, when it is committed."""
        ...


Send = Callable[[Sequence[Message]], Awaitable[None]]


class Output(Protocol):
    """Where messages are sent. What was sent is remembered only behind the other side's acknowledgement.

    A class whose `takes` names some of predictions, verdicts, alerts and review takes nothing else.
    """

    name: ClassVar[str]

    def connected(self) -> AbstractAsyncContextManager[Send]:
        """Connect; yield what sends a batch, in order, and returns when all of it is acknowledged.

        When it fails it raises; the batch is sent again over a new connection, later and later. It must end in bounded time.
        """
        ...


class Encoder(Protocol):
    """Frozen: examples in, one vector of pooled layers each out."""

    name: ClassVar[str]
    reads: ClassVar[Kind]  # the field of Example that it takes
    dim: int
    digest: str  # of all that a vector depends on: weights, tokenizer or processor, maximum length, pooling, layers

    def load(self) -> None:
        """Load the weights; once, in the process that uses them."""
        ...

    def encode(self, examples: Sequence[Example]) -> tuple[Tensor | Sequence[Tensor], Sequence[bool]]:
        """Return float16 vectors [n, dim] and, per example, whether it was truncated.

        One that has the class variable `tags = True` gives each word of a text its own (`adaptd.words`): [words, dim] of each.
        """
        ...


@runtime_checkable
class Tunable(Protocol):
    """An encoder of texts a copy of whose upper blocks can be tuned (`adaptd.model.tuning`); it stays as it is."""

    digest: str

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        ...

    def load(self) -> None:
        """Load the weights."""
        ...

    def blocks(self, cut: int) -> Any:
        """Return a copy of the blocks from `cut` on; raise Conflict where its model has none that run by themselves."""
        ...

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts."""
        ...

    def lower(self, ids: Sequence[list[int]], cut: int) -> list[Tensor]:
        """Return the token states [t, width] below `cut`."""
        ...

    def tuned(self, examples: Sequence[Example], upper: Upper) -> Tensor:
        """Return what tuned blocks make of examples: float16 [n, width]."""
        ...


class Strategy(Protocol):
    """How an adaptation learns from new examples without losing the old ones."""

    name: ClassVar[str]

    def adapt(self, task: Task) -> Mapping[str, float]:
        """Train `task.network` in place on `task`'s rows; return numbers to log."""
        ...


class Gate(Protocol):
    """Judges a candidate against the champion. Pure."""

    name: ClassVar[str]

    def judge(self, scores: Paired) -> Verdict:
        """Return the verdict over paired held-out answers."""
        ...


class MemoryCandidates(Protocol):
    """The rows among which a policy chooses the one that goes: of one class, or of all (`MemoryPolicy.by_class`)."""

    order: npt.NDArray[np.int64]  # how many rows had been learned before each [n]
    priority: npt.NDArray[np.uint64]  # a keyed hash of each one's content [n]: the only randomness there is
    now: int  # rows learned so far

    @property
    def vectors(self) -> npt.NDArray[np.float64]:
        """Their vectors [n, dim], on a grid on which dot products are exact."""
        ...

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean over all that the class has learned, evicted rows too [dim]."""
        ...

    @property
    def kept(self) -> tuple[npt.NDArray[np.float64], int]:
        """The sum over the class's retrievable rows [dim], and how many they are."""
        ...


class MemoryPolicy(Protocol):
    """Chooses what a full memory evicts from retrieval. Pure."""

    name: ClassVar[str]
    by_class: ClassVar[bool]  # the largest class gives up a row; else all rows are one population

    @property
    def newest(self) -> int:
        """How many of its newest rows a class keeps, up to half of its share."""
        ...

    def choose(self, rows: MemoryCandidates) -> int:
        """Return the place of the row that goes."""
        ...
