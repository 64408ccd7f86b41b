"""Predict: the one thread that encodes and answers, on immutable snapshots, swapped between batches.

Requests that arrive together are encoded together (sorted by length by the encoder), clients and domains in turn; a
large one is encoded in pieces, and decoded when all of it is there; texts whose words are tagged, which have up to hundreds of
rows each, are decoded piece by piece. Learning's encodings wait behind predictions and go in small chunks, so that they never
hold an answer up for long; every fourth round they go first, so that a flood of predictions cannot starve a label.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from adaptd.errors import NotReady
from adaptd.fair import TURN, FairQueue, Piece
from adaptd.futures import fail, settle
from adaptd.interfaces import Encoder, Tunable
from adaptd.model.decoder import Decoded, decode
from adaptd.model.snapshot import Snapshot
from adaptd.model.tagging import decode_spans
from adaptd.model.threads import one_thread
from adaptd.model.upper import Upper
from adaptd.model.weights import Weights
from adaptd.records import Example
from adaptd.stages import Told, Traces, traces, unheard
from adaptd.words import words

log = logging.getLogger(__name__)
T = TypeVar("T")
ROUND = 64  # predictions encoded together at most,
ROUND_S, LEAST = 0.1, 2 * TURN  # and no more than take so long; but so many always
WORDS = 16  # that are tagged are as much work as an example more
FEW = 8  # examples up to which decoding is a small piece of work
LONG_S, SUFFERED_S = 0.1, 0.5  # a wait that is too long; how long it is remembered
CHUNK = 16  # learning's examples encoded between two rounds of predictions
Tuned = Mapping[str, tuple[Upper, Tensor]]  # head -> tuned upper blocks, and what they made of examples [n, width]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One example's answer and what it rests on."""

    heads: Mapping[str, Decoded]
    vector: Tensor  # float16 [dim]; of a text whose words are tagged [words, dim]
    tuned: Tuned  # of this example [1, width]
    truncated: bool
    weights: Weights | None  # that a text is to be written with
    version: int
    seq: int  # what the snapshot had learned
    batch: int  # how many were encoded together
    wait_ms: float
    work_ms: float


_Said = tuple[Snapshot, Mapping[str, Sequence[Decoded]]]  # what answered, and by head what it said


@dataclass
class _Request:
    domain: str
    encoder: str
    examples: Sequence[Example]
    evidence: int = 0  # how many neighbours to name
    tags: bool = False  # each word of a text is encoded and answered
    client: str = ""
    upper: Upper | None = None  # what is to be encoded is by tuned upper blocks
    traces: Traces = field(default_factory=traces.get)
    born: float = field(default_factory=time.monotonic)
    begun: float | None = None
    encoded: list[tuple[Tensor | Sequence[Tensor], Sequence[bool]]] = field(default_factory=list)  # its pieces so far
    tuned: list[Tuned] = field(default_factory=list)  # by piece
    said: dict[int, _Said] = field(default_factory=dict)  # by piece, of texts whose words are tagged
    left: int = field(init=False)  # examples that are not encoded yet
    done: Future[Any] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.left = len(self.examples)

    def weight(self, row: int) -> int:
        """Return for how many examples one counts in a round: a text whose words are tagged by its words."""
        return 1 + len(words(self.examples[row].text or "")) // WORDS if self.tags else 1

    def piece(self, place: int) -> Sequence[Example]:
        """Return the examples of a piece that is encoded."""
        first = sum(len(flags) for _, flags in self.encoded[:place])
        return self.examples[first:first + len(self.encoded[place][1])]


class Inference:
    """Owns the encoders and the snapshots."""

    def __init__(self, encoders: Mapping[str, Encoder], limit: int) -> None:
        self.encoders = encoders
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._predictions = FairQueue[_Request](limit)
        self._encodings: deque[_Request] = deque()
        self._swaps: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._snapshots: dict[str, Snapshot] = {}
        self._stop = False
        self._round = 0
        self.told: Told = unheard
        self._waited_at = -math.inf  # when a prediction last had to wait long
        self.beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Answer what waits, then end."""
        self._stop = True
        self._wake.put(None)
        self._thread.join()
        self._refuse()

    @property
    def waiting(self) -> int:
        """Examples that wait for an answer."""
        return self._predictions.waiting

    def suffers(self) -> bool:
        """Say whether predictions waited long just now: what else runs on this machine is to give way."""
        return time.monotonic() - self._waited_at < SUFFERED_S

    @property
    def waiting_labels(self) -> int:
        """Labelled examples that wait to be encoded."""
        return sum(len(request.examples) for request in tuple(self._encodings))

    def snapshot(self, domain: str) -> Snapshot:
        """Return what a domain answers with now."""
        return self._snapshots[domain]

    def predict(self, domain: str, encoder: str, examples: Sequence[Example], *, evidence: int = 0,
                client: str = "") -> Future[list[Answered]]:
        """Queue examples to be answered; clients take turns.

        Raises
        ------
        Busy
            Too many are waiting.
        """
        request = _Request(domain, encoder, examples, evidence, getattr(self.encoders[encoder], "tags", False), client)
        self._predictions.put(request)
        self._wake.put(None)
        return request.done

    def expect(self, domain: str, client: str) -> None:
        """Refuse a client, before what it sends is read, whose next example could not wait: raise Busy."""
        self._predictions.expect(domain, client)

    def encode(self, encoder: str, examples: Sequence[Example]) -> Future[tuple[Tensor | Sequence[Tensor], Sequence[bool]]]:
        """Queue examples to be encoded for learning: (float16 [n, dim], truncated); it fails with NotReady once all is closed."""
        return self._queued(_Request("", encoder, examples))

    def tuned(self, encoder: str, examples: Sequence[Example], upper: Upper) -> Future[tuple[Tensor, Sequence[bool]]]:
        """Queue examples to be encoded by tuned upper blocks, for learning: (float16 [n, width], none truncated)."""
        return self._queued(_Request("", encoder, examples, upper=upper))

    def _queued(self, request: _Request) -> Future[Any]:
        self._encodings.append(request)
        self._wake.put(None)
        if self._stop and not self._thread.is_alive():
            self._refuse()
        return request.done

    def _refuse(self) -> None:
        """Fail what came too late to be encoded: who waits for it must end, too."""
        while self._encodings:
            fail(self._encodings.popleft().done, NotReady("the daemon is stopping"))

    def swap(self, domain: str, make: Callable[[], Snapshot]) -> Future[Snapshot]:
        """Run `make` between two batches and answer with what it returns from then on."""
        def apply() -> Snapshot:
            self._snapshots[domain] = snapshot = make()
            return snapshot

        return self.between(apply)

    def between(self, run: Callable[[], T]) -> Future[T]:
        """Run something short between two batches: nothing else searches or changes an index meanwhile."""
        done: Future[T] = Future()
        self._swaps.append((run, done))
        self._wake.put(None)
        return done

    def _run(self) -> None:
        while not (self._stop and not self._predictions and not self._encodings and not self._swaps):
            self.beat = time.monotonic()
            try:
                self._wake.get(timeout=1.0)
            except queue.Empty:
                continue
            self._work()

    def _work(self) -> None:
        """Do everything that is queued, in rounds."""
        while self._swaps or self._predictions or self._encodings:
            self.beat = time.monotonic()
            self._round += 1
            while self._swaps:
                make, done = self._swaps.popleft()
                _apply(done, make)
            if self._predictions and not (self._encodings and self._round % 4 == 0):
                self._answer_round()
            elif self._encodings:
                self._encode_chunk()

    def _answer_round(self) -> None:
        began, rate = time.monotonic(), self._predictions.rate
        taken = [piece for piece in self._predictions.take(min(ROUND, max(LEAST, rate.within(ROUND_S))))
                 if not piece.request.done.done()]  # it failed with an earlier piece, or nobody waits any more
        for encoder in dict.fromkeys(piece.request.encoder for piece in taken):
            group = [piece for piece in taken if piece.request.encoder == encoder]
            try:
                self._answer(encoder, group)
            except Exception as error:  # one bad batch is its callers' failure, not the thread's end
                log.exception("prediction failed", extra={"action": "predict_failed"})
                for piece in group:
                    fail(piece.request.done, error)
        rate.took(sum(len(piece.rows) for piece in taken), time.monotonic() - began)

    def _answer(self, encoder: str, group: list[Piece[_Request]]) -> None:
        """Encode all of a group's examples together, and decode together what one snapshot answers."""
        start = time.monotonic()
        for piece in group:
            if piece.request.begun is None:
                self.told("inference_wait", piece.request.born, piece.request.traces)
        vectors, truncated = self.encoders[encoder].encode([p.request.examples[row] for p in group for row in p.rows])
        consolidated = self._consolidated(encoder, group)
        self.told("encode", start, _traces(piece.request for piece in group))
        alike: dict[tuple[str, int], list[_Request]] = {}
        at = 0
        for piece, tuned in zip(group, consolidated, strict=True):
            request, rows = piece.request, slice(at, at + len(piece.rows))
            at = rows.stop
            if request.begun is None:
                request.begun = start
                self._waited_at = start if start - request.born > LONG_S else self._waited_at
            request.encoded.append((vectors[rows], truncated[rows]))
            request.tuned.append(tuned)
            request.left -= len(piece.rows)
            if not request.left:
                alike.setdefault((request.domain, request.evidence), []).append(request)
        if not isinstance(vectors, Tensor):
            self._tag(piece.request for piece in group)
        for (domain, evidence), requests in alike.items():
            began, snapshot = time.monotonic(), self._snapshots[domain]
            mine = _joined([part for request in requests for part, _ in request.encoded])
            if isinstance(mine, Tensor):
                parts = [part for request in requests for part in request.tuned]
                with one_thread(len(mine) <= FEW):
                    heads = {name: iter(decode(mine, head, _tuned(parts, name, head.adapter.upper), evidence=evidence))
                             for name, head in snapshot.heads.items()}
            else:
                heads = {name: iter([one for request in requests for place in range(len(request.encoded))
                                     for one in request.said[place][1][name]]) for name in snapshot.heads}
            self.told("decode", began, _traces(requests))
            now = time.monotonic()
            for request in requests:
                begun = request.begun or start
                settle(request.done, [
                    Answered(heads={name: next(decoded) for name, decoded in heads.items()}, vector=vector,
                             tuned={name: (upper, some[row:row + 1]) for name, (upper, some) in by_head.items()},
                             truncated=flag, weights=snapshot.weights, version=snapshot.version, batch=len(vectors),
                             seq=(request.said[place][0] if request.said else snapshot).seq,
                             wait_ms=1e3 * (begun - request.born), work_ms=1e3 * (now - begun))
                    for place, ((part, flags), by_head) in enumerate(zip(request.encoded, request.tuned, strict=True))
                    for row, (vector, flag) in enumerate(zip(part, flags, strict=True))])

    def _tag(self, requests: Iterable[_Request]) -> None:
        """Answer those pieces of requests, texts with tagged words, that the version that answers now has not answered yet."""
        alike: dict[tuple[str, int], list[tuple[_Request, int]]] = {}
        for request in {id(request): request for request in requests}.values():
            version = self._snapshots[request.domain].version
            alike.setdefault((request.domain, request.evidence), []).extend(
                (request, place) for place in range(len(request.encoded))
                if place not in request.said or request.said[place][0].version != version)
        for (domain, evidence), pieces in alike.items():
            snapshot = self._snapshots[domain]
            vectors = [one for request, place in pieces for one in request.encoded[place][0]]
            texts = [example.text or "" for request, place in pieces for example in request.piece(place)]
            heads = {name: iter(decode_spans(vectors, texts, head, evidence=evidence)) for name, head in snapshot.heads.items()}
            for request, place in pieces:
                count = len(request.piece(place))
                request.said[place] = snapshot, {name: list(islice(decoded, count)) for name, decoded in heads.items()}

    def _consolidated(self, encoder: str, group: Sequence[Piece[_Request]]) -> list[Tuned]:
        """Return, by piece, what the tuned upper blocks that a domain's heads answer with make of what was just encoded."""
        found: list[dict[str, tuple[Upper, Tensor]]] = [{} for _ in group]
        for domain in dict.fromkeys(piece.request.domain for piece in group):
            mine = [(piece, one) for piece, one in zip(group, found, strict=True) if piece.request.domain == domain]
            for name, head in self._snapshots[domain].heads.items():
                if (upper := head.adapter.upper) is not None:
                    examples = [piece.request.examples[row] for piece, _ in mine for row in piece.rows]
                    parts = torch.split(self._tuned(encoder, examples, upper), [len(piece.rows) for piece, _ in mine])
                    for (_, one), part in zip(mine, parts, strict=True):
                        one[name] = upper, part
        return [*found]

    def _tuned(self, encoder: str, examples: Sequence[Example], upper: Upper) -> Tensor:
        tunable = self.encoders[encoder]
        assert isinstance(tunable, Tunable), encoder  # it was, when they were tuned
        return tunable.tuned(examples, upper)

    def _encode_chunk(self) -> None:
        request = self._encodings.popleft()
        try:
            began, parts = time.monotonic(), []
            for start in range(0, len(request.examples), CHUNK):
                some = request.examples[start:start + CHUNK]
                parts.append(self.encoders[request.encoder].encode(some) if request.upper is None else
                             (self._tuned(request.encoder, some, request.upper), [False] * len(some)))
                while self._swaps:
                    make, done = self._swaps.popleft()
                    _apply(done, make)
                if self._predictions:
                    self._answer_round()
            vectors = _joined([vector for vector, _ in parts])
            self.told("encode_labels", began, request.traces)
            settle(request.done, (vectors, [flag for _, flags in parts for flag in flags]))
        except Exception as error:  # the learner reports it
            fail(request.done, error)


def _joined(parts: Sequence[Tensor | Sequence[Tensor]]) -> Tensor | list[Tensor]:
    """Join what was encoded in pieces: vectors [n, dim], or those of the words of each text."""
    whole = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(whole) if len(whole) == len(parts) else [one for part in parts for one in part]


def _tuned(parts: Sequence[Tuned], head: str, upper: Upper | None) -> Tensor | None:
    """Return what the tuned blocks that answer now made of all parts; None where another version's were asked for some."""
    mine = [part.get(head) for part in parts]
    return None if upper is None or any(one is None or one[0] is not upper for one in mine) else torch.cat(
        [one[1] for one in mine if one is not None])


def _traces(requests: Iterable[_Request]) -> Traces:
    """Return the traces of requests, each once."""
    return tuple({trace: None for request in requests for trace in request.traces})


def _apply(done: Future[Any], make: Callable[[], Any]) -> None:
    try:
        settle(done, make())
    except Exception as error:  # belongs to whoever asked for the swap
        fail(done, error)
