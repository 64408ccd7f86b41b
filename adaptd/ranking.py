"""Ranking: a plugin's ranker follows the learned rows of a domain, and orders candidates for whoever asks.

Where: beside predict, over the same rows. Before each answer the ranker is brought to the rows that are alive in the live
lineage: what was born since is learned, what died is unlearned, in the order of the journal; behind a rollback or a forget it is
made anew. So it is exact whenever it answers, a label counts from its acknowledgement on, and there is nothing to store.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, func, select
from torch import Tensor

from adaptd import registry
from adaptd import tables as t
from adaptd.heads import Head
from adaptd.history import last_seq
from adaptd.interfaces import Domain, Ranker
from adaptd.model.attention import Floats
from adaptd.records import Ask, Candidate, Ranked, Taught
from adaptd.rows import lineage, replay

CACHED = 20_000  # vectors of candidates' texts in RAM
PART = 500  # events that are read at once
Encode = Callable[[Sequence[Any]], Tensor]
Vectors = Callable[[Sequence[int]], Mapping[int, Tensor]]


class Ranking:
    """The ranker of one domain. One answer at a time."""

    def __init__(self, number: int, domain: Domain, make: Callable[[], Ranker], vectors: Vectors, encode: Encode,
                 reader: Engine) -> None:
        self._number = number
        self._domain = domain
        self._make = make
        self._vectors = vectors
        self._encode = encode
        self._reader = reader
        self._ranker = make()
        self._lineage: tuple[Any, ...] = ()  # what it was made for
        self._seq = 0  # up to which it has followed
        self._texts: OrderedDict[str, Floats] = OrderedDict()
        self._one = threading.Lock()
        self.waiting = 0  # answers that were asked for and are not given yet; of the event loop

    def rank(self, user: str, candidates: Sequence[Mapping[str, Any]], k: int | None,
             diversity: float) -> tuple[list[Ranked], int]:
        """Return the candidates in the order in which a user may like them, and the seq that was learned."""
        examples = [self._domain.example(payload) for payload in candidates]
        with self._one:
            with self._reader.connect() as connection:
                self._follow(connection)
            made = self._encoded([example.text or "" for example in examples], examples)
            asked = [Candidate(id=str(payload["item"]), payload=payload, vector=vector)
                     for payload, vector in zip(candidates, made, strict=True)]
            found = self._ranker.rank(Ask(user=user, candidates=asked, k=k or len(asked), diversity=diversity), self._of_events)
            return list(found), self._seq

    def _follow(self, connection: Connection) -> None:
        """Bring the ranker to the rows that are alive now."""
        live, newest = registry.live(connection, self._number), last_seq(connection)
        forgets = connection.scalar(select(func.count()).where(t.action.c.domain == self._number, t.action.c.what == "forget"))
        if (now := (live.branch, forgets)) != self._lineage:
            self._ranker, self._lineage, self._seq = self._make(), now, -1
        if newest == self._seq:
            return
        entries = replay(connection, self._number, lineage(connection, live.branch, newest), self._seq)
        payloads = self._payloads(connection, sorted({row.event for entry in entries for row in entry.born}))
        for entry in entries:
            for row_id in entry.died:
                self._ranker.unlearn(row_id)
            for row in entry.born:
                if row.head in self._domain.heads:
                    self._ranker.learn(Taught(row=row.id, event=row.event, payload=payloads[row.event], head=row.head,
                                              label=_label(self._domain.heads[row.head], row.target)))
        self._seq = newest

    @staticmethod
    def _payloads(connection: Connection, events: Sequence[int]) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for start in range(0, len(events), PART):
            query = select(t.event.c.seq, t.event.c.payload).where(t.event.c.seq.in_(events[start : start + PART]))
            found.update({r.seq: json.loads(r.payload) for r in connection.execute(query)})
        return found

    def _of_events(self, events: Sequence[int]) -> dict[int, Floats]:
        return {seq: vector.float().numpy() for seq, vector in self._vectors(events).items()}

    def _encoded(self, texts: Sequence[str], examples: Sequence[Any]) -> list[Floats]:
        """Return the vectors of texts; each is encoded once."""
        missing = {text: example for text, example in zip(texts, examples, strict=True) if text not in self._texts}
        if missing:
            self._texts |= zip(missing, self._encode(list(missing.values())).float().numpy(), strict=True)
        found = [self._texts[text] for text in texts]
        for text in texts:
            self._texts.move_to_end(text)
        while len(self._texts) > CACHED:
            self._texts.popitem(last=False)
        return found


@lru_cache(maxsize=10_000)
def _label(head: Head, target: str) -> Any:
    return head.label(target)

