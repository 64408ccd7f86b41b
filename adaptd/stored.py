"""Stored vectors: what an encoder gave for events, read from the store. Nothing is encoded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import Connection, Engine, func, select
from torch import Tensor

from adaptd import tables as t
from adaptd.errors import Conflict
from adaptd.records import event_of, place


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The vectors of an encoder that the store has."""

    engine: Engine
    encoder_id: int
    dim: int

    def __call__(self, places: Sequence[int]) -> dict[int, Tensor]:
        """Read the vectors of places; refuse what is missing."""
        found: dict[int, Tensor] = {}
        query = select(t.vector.c.event, t.vector.c.part, t.vector.c.data).where(t.vector.c.encoder == self.encoder_id)
        events = list(dict.fromkeys(map(event_of, places)))
        with self.engine.connect() as connection:
            for start in range(0, len(events), 500):
                for r in connection.execute(query.where(t.vector.c.event.in_(events[start:start + 500]))):
                    found[place(r.event, r.part)] = torch.frombuffer(bytearray(r.data), dtype=torch.float16)
        if missing := {event_of(one) for one in places if one not in found}:
            raise Conflict(f"{len(missing)} events of this version have no vectors of its encoder in the store",
                           hint="a daemon with that encoder makes them: adaptd run")
        return found


def stored(connection: Connection, digest: str, version: int) -> Stored:
    """Return the vectors of the encoder that a version was made with.

    Raises
    ------
    Conflict
        There are none.
    """
    query = select(t.encoder.c.id, func.length(t.vector.c.data).label("bytes")).join(
        t.vector, t.vector.c.encoder == t.encoder.c.id).where(t.encoder.c.digest == digest).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise Conflict(f"the store has no vectors of the encoder that version {version} was made with",
                       hint="a daemon with that encoder makes them: adaptd run")
    return Stored(engine=connection.engine, encoder_id=row.id, dim=row.bytes // torch.float16.itemsize)
