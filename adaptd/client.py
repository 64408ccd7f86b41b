"""The client: `from adaptd import Client`. What a daemon can be asked over HTTP, with the standard library alone.

Where: outside the daemon; the command line, the tests and other programs come this way. Raises `AdaptdError`: the
daemon's own errors as their classes, with code, field and hint, and `NotRunning` when nobody listens.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

from adaptd.answers import Adapted, Answered, Certificate, Ingested, Rejection, Replayed, RolledBack, Status
from adaptd.errors import AdaptdError, BadPayload, Busy, Disconnected, NotFound, NotRunning, TooLarge
from adaptd.paths import locate
from adaptd.wire import Address, Json, Wire, rebuilt, seconds, url

CHUNK_ITEMS, CHUNK_CHARACTERS = 500, 1 << 20  # half and an eighth of the default limits; a smaller limit halves a chunk
AGAIN_S = 0.5  # after a lost connection
OWN = -1.0  # the timeout that the client was made with
R = TypeVar("R")
Event = Mapping[str, Any] | tuple[str, Any]
Moment = str | float


class Client:
    """One daemon, and one of its domains. Safe for threads.

    As a context it keeps its connections open; else each call has its own. What says "try again later" (429, 503) is
    tried again when it says, and what a second arrival does not change also after a lost connection, for up to
    `patience_s` in all.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None, *, token: str | None = None, domain: str = "text",
                 timeout_s: float | None = 60.0, patience_s: float = 60.0,
                 cafile: str | os.PathLike[str] | None = None) -> None:
        """Name the daemon: a store's folder, a unix socket or a URL; by default the store that the command line finds.

        `token` is for a URL: one of `adaptd token create`, or the content of the file `token` in the store's folder.
        `cafile` is for an https URL whose certificate no authority of this system has signed: who has.
        """
        self.domain = domain
        self._timeout_s, self._patience_s = timeout_s, patience_s
        self._wire = Wire(_address(where, None if cafile is None else Path(cafile)), token)

    def __enter__(self) -> Self:
        self._wire.keep()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._wire.address)!r}, domain={self.domain!r})"

    def close(self) -> None:
        """Close the connections that are kept."""
        self._wire.close()

    # -- answers and labels ------------------------------------------------------------------------------------

    def predict(self, texts: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]], *, explain: bool = False,
                min_seq: int | None = None) -> list[Answered]:
        """Answer texts, or inputs with more than a text; each becomes an event, which feedback can name.

        `explain` names the remembered examples that weighed in; `min_seq` waits until that seq is learned.
        """
        more = {"explain": explain} | ({} if min_seq is None else {"min_seq": min_seq})
        found: list[Answered] = []
        for start, chunk in _chunks(map(_input, _several(texts))):
            found += self._halving(start, chunk, lambda at, part: self._predicted(at, part, more))
        return found

    def learn(self, events: Event | Iterable[Event]) -> Ingested:
        """Send events, as mappings or as (text, label); what is accepted is durable and learned when it returns.

        An event without an id gets one here, so that one that is sent again counts once. Give ids of your own where
        your program may send the same event in another run.
        """
        return sum(self.events(events), Ingested())

    def events(self, events: Event | Iterable[Event]) -> Iterator[Ingested]:
        """Send events as `learn` does, from an iterable without end as well; yield what became of each chunk."""
        for start, chunk in _chunks(map(_event, _several(events, pairs=True))):
            yield from self._halving(start, chunk, lambda at, part: [self._ingested("events", at, part)])

    def feedback(self, event: str | Answered, label: Any) -> Ingested:
        """Give a label to an earlier event, or correct the one it has.

        Raises
        ------
        NotFound
            There is no such event.
        """
        named = event.event if isinstance(event, Answered) else event
        document = self._post("feedback", {"event": named, "label": label}, again=True)
        return Ingested.of(document)

    def feedbacks(self, labels: Iterable[Mapping[str, Any]]) -> Ingested:
        """Give many: {"event", "label"} or {"source", "id", "label"} each; an unknown event is a rejection."""
        found = Ingested()
        for start, chunk in _chunks(map(dict, labels)):
            for one in self._halving(start, chunk, lambda at, part: [self._ingested("feedback", at, part)]):
                found += one
        return found

    # -- versions ----------------------------------------------------------------------------------------------

    def adapt(self, *, wait: bool = True, timeout_s: float | None = None) -> Adapted:
        """Train a candidate and let the gate judge it; it goes on when the wait ends (by default there is no end)."""
        return _record(Adapted, self._post("adapt", {"wait": wait}, timeout_s=timeout_s if wait else OWN))

    def cancel(self, reason: str = "") -> Json:
        """End the adaptation that runs or is paused; the champion stays."""
        return self._post("adapt/cancel", {"reason": reason})

    def snapshot(self, reason: str = "") -> int:
        """Name the live state as a version; return its number."""
        return int(self._post("snapshot", {"reason": reason})["version"])

    def rollback(self, *, to: int | None = None, at: Moment | None = None, reason: str = "", and_replay: bool = False,
                 except_sources: Iterable[str] = ()) -> RolledBack:
        """Go back to a version, to what was live at a moment, or one step. Learning is on hold until `resume`.

        `and_replay` learns again what came since, but for `except_sources`, which stay on hold.
        """
        body = {"to": to, "at": at, "reason": reason, "and_replay": and_replay, "except_sources": list(except_sources)}
        return _record(RolledBack, self._post("rollback", _given(body)))

    def replay(self, since: int | Moment, *, except_sources: Iterable[str] = (), except_events: Iterable[str] = (),
               reason: str = "") -> Replayed:
        """Learn again what came since a seq (an integer) or a moment and is not in the live state."""
        return _record(Replayed, self._post("replay", {
            "since": since, "except_sources": list(except_sources), "except_events": list(except_events), "reason": reason}))

    def promote(self, to: int, *, force: bool = False, reason: str = "") -> int:
        """Make a candidate live; `force` even where its gate refused."""
        return int(self._post("promote", {"to": to, "force": force, "reason": reason})["version"])

    def versions(self) -> list[Json]:
        """List the versions, oldest first."""
        return list(self._get("versions")["versions"])

    def version(self, number: int) -> Json:
        """Return a version in full."""
        return self._get(f"versions/{number:d}")

    # -- what is kept ------------------------------------------------------------------------------------------

    def forget(self, *, event: str | None = None, source: str | None = None, subject: str | None = None,
               label: str | None = None, since: Moment | None = None, until: Moment | None = None,
               reason: str = "") -> Certificate:
        """Forget events and their influence, for good: exactly one of event, source, subject, label and since."""
        return _record(Certificate, self._post("forget", _given({
            "event": event, "source": source, "subject": subject, "label": label, "since": since, "until": until,
            "reason": reason}), timeout_s=None))

    def hold(self, what: str = "learning", *, source: str = "", reason: str = "") -> Json:
        """Stop learning or adaptation; answers go on."""
        return self._post("hold", {"what": what, "source": source, "reason": reason}, again=True)

    def resume(self, what: str = "learning", *, source: str = "", reason: str = "", drop: bool = False) -> Json:
        """Go on, and learn what waited, or drop it."""
        return self._post("resume", {"what": what, "source": source, "reason": reason} | ({"drop": True} if drop else {}))

    def memory(self) -> Json:
        """Say what is remembered: counts, index and bytes."""
        return self._get("memory")

    def search(self, text: str, k: int = 10) -> list[Json]:
        """Return the remembered examples nearest to a text."""
        return list(self._post("memory/search", {"text": text, "k": k}, again=True)["results"])

    def explain(self, event: str | Answered, *, counterfactual: bool = False) -> Json:
        """Say what answered an event, what would now, and because of what."""
        named = event.event if isinstance(event, Answered) else event
        return self._get(f"explain/{quote(named, safe='')}" + ("?counterfactual=true" if counterfactual else ""))

    # -- the daemon --------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """Say what is live, how good it is, what goes on and what is wrong."""
        return _record(Status, self.call("GET", "/v1/status"))

    def history(self, limit: int = 50) -> list[Json]:
        """Say who changed what in the domain, when and why, newest first."""
        return list(self.call("GET", "/v1/history?" + urlencode({"domain": self.domain, "limit": limit}))["actions"])

    def ready(self) -> bool:
        """Say whether the daemon answers predictions."""
        try:
            return self.exchange("GET", "/readyz")[0] == 200
        except (NotRunning, Disconnected):
            return False

    # -- any route ---------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, timeout_s: float | None = OWN, *,
             again: bool | None = None) -> Json:
        """Send one request and return the answer's document; with patience. `again`: a second arrival changes nothing.

        Raises
        ------
        NotRunning
            Nobody listens.
        AdaptdError
            What the daemon answered, as the class of its code; `Busy` carries when to try again.
        """
        status, document, retry_after = self._patient(method, path, body, timeout_s, method == "GET" if again is None else again)
        if status >= 400:
            raise rebuilt(status, document, retry_after)
        return document

    def exchange(self, method: str, path: str, body: Any = None,
                 timeout_s: float | None = OWN) -> tuple[int, Json, str | None]:
        """Send one request, once; return status, document and Retry-After. `bytes` are sent as they are, else JSON."""
        return self._wire.exchange(method, path, body, self._timeout_s if timeout_s == OWN else timeout_s)

    def _patient(self, method: str, path: str, body: Any, timeout_s: float | None,
                 again: bool) -> tuple[int, Json, str | None]:
        """Exchange until the answer is not "later", or the next try would come after the patience has ended."""
        end, lost = time.monotonic() + self._patience_s, False
        while True:
            try:
                status, document, retry_after = self.exchange(method, path, body, timeout_s)
                wait = _later(status, document, retry_after)
                if wait is None or time.monotonic() + wait > end:
                    return status, document, retry_after
            except (Disconnected, NotRunning) as error:
                lost = lost or isinstance(error, Disconnected)  # who was there a moment ago is perhaps restarted
                wait = AGAIN_S
                if not (again and lost) or time.monotonic() + wait > end:
                    raise
            time.sleep(wait)  # as the daemon asked; bounded by the patience

    def _route(self, verb: str) -> str:
        return f"/v1/{quote(self.domain, safe='')}/{verb}"

    def _get(self, verb: str) -> Json:
        return self.call("GET", self._route(verb))

    def _post(self, verb: str, body: Json, *, timeout_s: float | None = OWN, again: bool = False) -> Json:
        return self.call("POST", self._route(verb), body, timeout_s, again=again)

    def _predicted(self, start: int, inputs: list[Json], more: Json) -> list[Answered]:
        try:
            return Answered.all(self._post("predict", {"inputs": inputs, **more}, again=True))
        except BadPayload as error:
            field = _moved(error.field or "", start) or None
            raise BadPayload(_moved(error.message, start), hint=error.hint, field=field) from None

    def _ingested(self, verb: str, start: int, items: list[Json]) -> Ingested:
        status, document, retry_after = self._patient("POST", self._route(verb), items, OWN, again=True)
        if status < 400 or "rejected" in document:
            return Ingested.of(document, start)
        error = rebuilt(status, document, retry_after)
        if verb == "feedback" and isinstance(error, NotFound):  # not one of them is known
            return Ingested(rejected=[Rejection(start + n, error) for n in range(len(items))], events=[None] * len(items))
        if isinstance(error, TooLarge) and len(items) == 1:
            return Ingested(rejected=[Rejection(start, error)], events=[None])
        raise error

    def _halving(self, start: int, chunk: list[Json], send: Callable[[int, list[Json]], list[R]]) -> list[R]:
        """Send a chunk; halve one that is larger than the daemon takes, down to the element that is too large by itself."""
        try:
            return send(start, chunk)
        except TooLarge:
            if len(chunk) == 1:
                raise
        half = len(chunk) // 2
        return [*self._halving(start, chunk[:half], send), *self._halving(start + half, chunk[half:], send)]


def _address(where: str | os.PathLike[str] | None, cafile: Path | None) -> Address:
    if isinstance(where, str) and "://" in where:
        return url(where, cafile)
    if where is None:
        return Address(path=locate().socket)
    path = Path(where)
    return Address(path=locate(path).socket if path.is_dir() or path.suffix == ".toml" else path)


def _later(status: int, document: Mapping[str, Any], retry_after: str | None) -> float | None:
    """Return after how many seconds to ask again; None when this is the answer."""
    if status not in (429, 503):
        return None
    error = rebuilt(status, document, retry_after)
    if isinstance(error, Busy):
        return error.retry_after_s
    return None if retry_after is None else seconds(retry_after)


def _several(given: Any, *, pairs: bool = False) -> Iterable[Any]:
    """Return what is given as several: a text and an event are one, and so is a pair where events may be `pairs`."""
    pair = pairs and isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str)
    return [given] if pair or isinstance(given, str | Mapping) else given


def _input(given: Any) -> Json:
    return _known({"text": given} if isinstance(given, str) else given, "an input is a text or a mapping")


def _event(given: Any) -> Json:
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"text": given[0], "label": given[1]}
    return _known(given, "an event is a mapping or a pair of text and label")


def _known(given: Any, shape: str) -> Json:
    """Return it with an id, so that it counts once however often it is sent."""
    if not isinstance(given, Mapping):
        raise BadPayload(f"{type(given).__name__} is neither: {shape}", hint='for example {"text": "where is my card?"}')
    return dict(given) if given.get("id") is not None else {**given, "id": uuid.uuid4().hex}


def _chunks(items: Iterable[Json]) -> Iterator[tuple[int, list[Json]]]:
    """Yield items in order, in chunks bounded in number and in size, each with the place of its first."""
    start, chunk, size = 0, list[Json](), 0
    for item in items:
        length = sum(len(value) if isinstance(value, str) else 16 for value in item.values())
        if chunk and (len(chunk) == CHUNK_ITEMS or size + length > CHUNK_CHARACTERS):
            yield start, chunk
            start, chunk, size = start + len(chunk), [], 0
        chunk.append(item)
        size += length
    if chunk:
        yield start, chunk


def _moved(text: str, start: int) -> str:
    """Name an input by its place among all that were given.

    >>> _moved("inputs[3]: the text is empty", 500)
    'inputs[503]: the text is empty'
    """
    return re.sub(r"^inputs\[(\d+)\]", lambda found: f"inputs[{start + int(found[1])}]", text)


def _given(body: Json) -> Json:
    return {name: value for name, value in body.items() if value is not None}


def _record(kind: type[R], document: Json) -> R:
    """Return the document's fields that the record has; an older or newer daemon may have fewer or more."""
    known = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]  # R is a dataclass here
    try:
        return kind(**{name: value for name, value in document.items() if name in known})
    except TypeError as error:
        raise AdaptdError(f"the daemon's answer is not as expected: {error}",
                          hint="client and daemon should be of one adaptd version") from None
