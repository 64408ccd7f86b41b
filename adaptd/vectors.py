"""Vectors: an event is encoded once; what it was encoded to is kept, in the store and for a while in RAM."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from sqlalchemy import Engine, and_, select
from torch import Tensor

from adaptd import tables as t
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.predict import Inference
from adaptd.records import Example

log = logging.getLogger(__name__)
CACHED = 20_000  # vectors in RAM that may not be committed yet


class Vectors:
    """The vectors of one domain's events under one encoder."""

    def __init__(self, domain: Domain, encoder: str, encoder_id: int, inference: Inference, journal: Journal,
                 reader: Engine) -> None:
        self._domain = domain
        self._encoder = encoder
        self.encoder_id = encoder_id
        self._inference = inference
        self._journal = journal
        self._reader = reader
        self._recent: OrderedDict[int, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, event: int, vector: Tensor) -> None:
        """Remember a vector that is on its way to the store."""
        if event in self._journal.forgotten:  # its answer was under way meanwhile
            return
        with self._lock:
            self._recent[event] = vector
            while len(self._recent) > CACHED:
                self._recent.popitem(last=False)

    def drop(self, events: Iterable[int]) -> None:
        """Let go of the vectors of forgotten events."""
        with self._lock:
            for event in events:
                self._recent.pop(event, None)

    def __call__(self, events: Sequence[int]) -> dict[int, Tensor]:
        """Return the vectors of events (by seq); those never encoded are encoded now and stored."""
        with self._lock:
            found = {seq: self._recent[seq] for seq in events if seq in self._recent}
        missing = [seq for seq in events if seq not in found]
        payloads: dict[int, str] = {}
        for start in range(0, len(missing), 500):
            for row in self._stored(missing[start:start + 500]):
                if row.data is not None:
                    found[row.seq] = torch.frombuffer(bytearray(row.data), dtype=torch.float16)
                else:
                    payloads[row.seq] = row.payload
        if payloads:
            found.update(self._encode(payloads))
        return found

    def _stored(self, events: Sequence[int]) -> Sequence[Any]:
        mine = and_(t.vector.c.event == t.event.c.seq, t.vector.c.part == 0, t.vector.c.encoder == self.encoder_id)
        query = select(t.event.c.seq, t.event.c.payload, t.vector.c.data).outerjoin(t.vector, mine)
        with self._reader.connect() as connection:
            return connection.execute(query.where(t.event.c.seq.in_(events))).all()

    def _encode(self, payloads: dict[int, str]) -> dict[int, Tensor]:
        examples = [self._example(payload) for payload in payloads.values()]
        vectors, _ = self._inference.encode(self._encoder, examples).result()
        fresh = dict(zip(payloads, vectors, strict=True))
        for event, vector in fresh.items():
            self.keep(event, vector)
        self._journal.record(self.encoder_id, [], [(event, 0, vector.numpy().tobytes()) for event, vector in fresh.items()])
        return fresh

    def _example(self, payload: str) -> Example:
        """Read a stored payload; one that the domain takes no more is read as it stands, and learning goes on."""
        try:
            return self._domain.example(json.loads(payload))
        except Exception as error:  # a plugin's new version may raise anything on what its old one took
            log.warning("a stored payload is read as it stands: %r", error, extra={"action": "payload_unread"})
            return Example(text=payload)
