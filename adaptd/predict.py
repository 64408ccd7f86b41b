"""Predict: the one thread that encodes and answers, on immutable snapshots, swapped between batches.

Requests that arrive together are encoded together (sorted by length by the encoder), clients and domains in turn; a
large one is encoded in pieces, and decoded when all of it is there. Learning's encodings wait behind predictions and
go in small chunks, so that they never hold an answer up for long; every fourth round they go first, so that a flood
of predictions cannot starve a label.
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
from typing import Any, TypeVar

import torch
from torch import Tensor

from adaptd.fair import TURN, FairQueue, Piece
from adaptd.futures import fail, settle
from adaptd.interfaces import Encoder
from adaptd.model.decoder import Decoded, decode
from adaptd.model.network import Snapshot
from adaptd.model.threads import one_thread
from adaptd.records import Example
from adaptd.stages import Told, Traces, traces, unheard

log = logging.getLogger(__name__)
T = TypeVar("T")
ROUND = 64  # predictions encoded together at most,
ROUND_S, LEAST = 0.1, 2 * TURN  # and no more than take so long; but so many always
FEW = 8  # examples up to which decoding is a small piece of work
LONG_S, SUFFERED_S = 0.1, 0.5  # a wait that is too long; how long it is remembered
CHUNK = 16  # learning's examples encoded between two rounds of predictions


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One example's answer and what it rests on."""

    heads: Mapping[str, Decoded]
    vector: Tensor  # float16 [dim]
    truncated: bool
    version: int
    seq: int  # what the snapshot had learned
    batch: int  # how many were encoded together
    wait_ms: float
    work_ms: float


@dataclass
class _Request:
    domain: str
    encoder: str
    examples: Sequence[Example]
    evidence: int = 0  # how many neighbours to name
    client: str = ""
    traces: Traces = field(default_factory=traces.get)
    born: float = field(default_factory=time.monotonic)
    begun: float | None = None
    encoded: list[tuple[Tensor, Sequence[bool]]] = field(default_factory=list)  # its pieces so far
    left: int = field(init=False)  # examples that are not encoded yet
    done: Future[Any] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.left = len(self.examples)


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
        request = _Request(domain, encoder, examples, evidence, client)
        self._predictions.put(request)
        self._wake.put(None)
        return request.done

    def encode(self, encoder: str, examples: Sequence[Example]) -> Future[tuple[Tensor, Sequence[bool]]]:
        """Queue examples to be encoded for learning: (float16 [n, dim], truncated)."""
        request = _Request("", encoder, examples)
        self._encodings.append(request)
        self._wake.put(None)
        return request.done

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
        self.told("encode", start, _traces(piece.request for piece in group))
        alike: dict[tuple[str, int], list[_Request]] = {}
        at = 0
        for piece in group:
            request, rows = piece.request, slice(at, at + len(piece.rows))
            at = rows.stop
            if request.begun is None:
                request.begun = start
                self._waited_at = start if start - request.born > LONG_S else self._waited_at
            request.encoded.append((vectors[rows], truncated[rows]))
            request.left -= len(piece.rows)
            if not request.left:
                alike.setdefault((request.domain, request.evidence), []).append(request)
        for (domain, evidence), requests in alike.items():
            began, snapshot = time.monotonic(), self._snapshots[domain]
            mine = torch.cat([part for request in requests for part, _ in request.encoded])
            with one_thread(len(mine) <= FEW):
                heads = {name: iter(decode(mine, head, evidence=evidence)) for name, head in snapshot.heads.items()}
            self.told("decode", began, _traces(requests))
            now = time.monotonic()
            for request in requests:
                begun = request.begun or start
                settle(request.done, [
                    Answered(heads={name: next(decoded) for name, decoded in heads.items()}, vector=vector,
                             truncated=flag, version=snapshot.version, seq=snapshot.seq, batch=len(vectors),
                             wait_ms=1e3 * (begun - request.born), work_ms=1e3 * (now - begun))
                    for part, flags in request.encoded for vector, flag in zip(part, flags, strict=True)])

    def _encode_chunk(self) -> None:
        request = self._encodings.popleft()
        try:
            began, parts = time.monotonic(), []
            for start in range(0, len(request.examples), CHUNK):
                parts.append(self.encoders[request.encoder].encode(request.examples[start:start + CHUNK]))
                while self._swaps:
                    make, done = self._swaps.popleft()
                    _apply(done, make)
                if self._predictions:
                    self._answer_round()
            vectors = torch.cat([vector for vector, _ in parts])
            self.told("encode_labels", began, request.traces)
            settle(request.done, (vectors, [flag for _, flags in parts for flag in flags]))
        except Exception as error:  # the learner reports it
            fail(request.done, error)


def _traces(requests: Iterable[_Request]) -> Traces:
    """Return the traces of requests, each once."""
    return tuple({trace: None for request in requests for trace in request.traces})


def _apply(done: Future[Any], make: Callable[[], Any]) -> None:
    try:
        settle(done, make())
    except Exception as error:  # belongs to whoever asked for the swap
        fail(done, error)
