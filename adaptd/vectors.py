"""Vectors: an event is encoded once; what it was encoded to is kept, in the store and for a while in RAM."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from sqlalchemy import Connection, Engine, and_, select
from torch import Tensor

from adaptd import blobs, media
from adaptd import tables as t
from adaptd.errors import MissingExtra
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.model.upper import Upper
from adaptd.predict import Inference
from adaptd.records import Example, event_of, part_of, place
from adaptd.tagging import tags_words
from adaptd.words import words

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
        self._tuned: OrderedDict[tuple[str, int], Tensor] = OrderedDict()  # by the digest of tuned blocks and the event
        self._tags = tags_words(domain)
        self._lock = threading.Lock()

    def keep(self, event: int, vector: Tensor) -> list[tuple[int, int, bytes]]:
        """Remember the vector of an event, or of each word of it, that is on its way to the store; return what goes there."""
        parts = list(enumerate(vector if vector.dim() > 1 else (vector,)))
        rows = [(event, part, one.numpy().tobytes()) for part, one in parts]
        if event in self._journal.forgotten:  # its answer was under way meanwhile
            return rows
        with self._lock:
            self._recent.update((place(event, part), one) for part, one in parts)
            while len(self._recent) > CACHED:
                self._recent.popitem(last=False)
        return rows

    def keep_tuned(self, event: int, upper: Upper, vector: Tensor) -> None:
        """Remember what tuned upper blocks made of an event, until its label comes; it is not stored."""
        if event in self._journal.forgotten:
            return
        with self._lock:
            self._tuned[upper.digest, event] = vector
            while len(self._tuned) > CACHED:
                self._tuned.popitem(last=False)

    def tuned(self, upper: Upper, events: Sequence[int]) -> Tensor:
        """Return what tuned upper blocks make of events [n, width]; those not remembered are encoded now."""
        with self._lock:
            found = {seq: self._tuned[upper.digest, seq] for seq in events if (upper.digest, seq) in self._tuned}
        missing = [seq for seq in dict.fromkeys(events) if seq not in found]
        if missing:
            given = self.examples(missing)
            vectors, _ = self._inference.tuned(self._encoder, list(given.values()), upper).result()
            for event, vector in zip(given, vectors, strict=True):
                found[event] = vector
                self.keep_tuned(event, upper, vector)
        return torch.stack([found[seq] for seq in events])

    def examples(self, events: Sequence[int]) -> dict[int, Example]:
        """Return what the encoder reads of events."""
        found: dict[int, Example] = {}
        with self._reader.connect() as connection:
            for start in range(0, len(events), 500):
                query = select(t.event.c.seq, t.event.c.payload).where(t.event.c.seq.in_(events[start:start + 500]))
                found |= {row.seq: self._example(connection, row.payload) for row in connection.execute(query).all()}
        return found

    def drop(self, events: Iterable[int]) -> None:
        """Let go of the vectors of events: they are forgotten, or read anew."""
        gone = set(events)
        with self._lock:
            for one in [one for one in self._recent if event_of(one) in gone]:
                del self._recent[one]
            for key in [key for key in self._tuned if key[1] in gone]:
                del self._tuned[key]

    def __call__(self, places: Sequence[int]) -> dict[int, Tensor]:
        """Return the vectors of places; events that lack one of theirs are encoded now, and what is stored of them gives way.

        A word that its text does not have any more, as the domain reads it now, has a vector of zeros: it is like no other.
        """
        with self._lock:
            found = {one: self._recent[one] for one in places if one in self._recent}
        wanted: dict[int, set[int]] = {}
        for one in places:
            wanted.setdefault(event_of(one), set()).add(part_of(one))
        missing = list(dict.fromkeys(event_of(one) for one in places if one not in found))
        payloads: dict[int, str] = {}
        before: dict[int, dict[int, Tensor]] = {}  # what is stored of those, by part
        for start in range(0, len(missing), 500):
            stored: dict[int, dict[int, Tensor]] = {}
            texts: dict[int, str] = {}
            for row in self._stored(missing[start:start + 500]):
                texts[row.seq], parts = row.payload, stored.setdefault(row.seq, {})
                if row.data is not None:
                    parts[row.part] = torch.frombuffer(bytearray(row.data), dtype=torch.float16)
            for event, parts in stored.items():
                if wanted[event] <= set(parts) and not self._reads_other(texts[event], len(parts), len(wanted[event])):
                    found.update((place(event, part), one) for part, one in parts.items())
                else:
                    payloads[event] = texts[event]
                    if parts:
                        before[event] = parts
        if payloads:
            found.update(self._encode(payloads, {event: max(wanted[event]) + 1 for event in payloads}, before))
        return found

    def _reads_other(self, payload: str, stored: int, wanted: int) -> bool:
        """Say whether a text has as many words now as are wanted of it, and had another number when its vectors were stored."""
        if not self._tags or stored == wanted:
            return False
        with self._reader.connect() as connection:
            return len(words(self._example(connection, payload).text or "")) == wanted

    def _stored(self, events: Sequence[int]) -> Sequence[Any]:
        mine = and_(t.vector.c.event == t.event.c.seq, t.vector.c.encoder == self.encoder_id)
        query = select(t.event.c.seq, t.event.c.payload, t.vector.c.part, t.vector.c.data).outerjoin(t.vector, mine)
        with self._reader.connect() as connection:
            return connection.execute(query.where(t.event.c.seq.in_(events))).all()

    def _encode(self, payloads: dict[int, str], count: Mapping[int, int],
                before: Mapping[int, Mapping[int, Tensor]]) -> dict[int, Tensor]:
        """Encode events, of which so many parts are wanted at least; what is stored of them gives way."""
        with self._reader.connect() as connection:
            examples = [self._example(connection, payload) for payload in payloads.values()]
        vectors, _ = self._inference.encode(self._encoder, examples).result()
        fresh = {event: _filled(vector, count[event], before.get(event, {})) if vector.dim() > 1 else vector
                 for event, vector in zip(payloads, vectors, strict=True)}
        if before:
            self.drop(before)  # a text that has fewer words now leaves none of its old ones
        kept = [row for event, vector in fresh.items() for row in self.keep(event, vector)]
        self._journal.record(self.encoder_id, [], kept, [*before])
        return {place(event, part): one for event, vector in fresh.items()
                for part, one in enumerate(vector if vector.dim() > 1 else (vector,))}

    def _example(self, connection: Connection, payload: str) -> Example:
        """Read a stored payload; of one that the domain takes no more the text as it stands, and learning goes on.

        Where words are tagged that text has none: its words would be none of those that were taught.
        """
        fields = blobs.read(connection, payload)  # a store that cannot be read now is no payload that the domain does not take
        try:
            return self._domain.example(fields)
        except MissingExtra:
            raise
        except Exception as error:  # a plugin's new version may raise anything on what its old one took
            log.warning("a stored payload is read as it stands: %r", error, extra={"action": "payload_unread"})
            if self._domain.reads != "text":
                return media.probe(self._domain.reads)
            return Example(text="" if self._tags else payload)


def _filled(vector: Tensor, count: int, before: Mapping[int, Tensor]) -> Tensor:
    """Return the vectors of a text's words [at least count, dim].

    A word that the text has no more has zeros; of a text that is not read any more what is stored stays.
    """
    if len(vector) >= count:
        return vector
    log.warning("%d words of a stored text are not read any more", count - len(vector), extra={"action": "words_gone"})
    nothing, left = vector.new_zeros(vector.shape[1]), {} if len(vector) else before
    return torch.cat([vector, *(left.get(part, nothing)[None] for part in range(len(vector), count))])
