"""The incumbent: the model that is in production today. Its answers come with the events, and adaptd runs in its shadow.

It is version 0. What it answered is set beside what adaptd answered, or would have, as labels come (`metrics.Comparison`),
until the operator says that clients use adaptd's answers: the switch is a line of the history, and from its seq on nothing
is compared. So a fold over the journal is the same whenever it is made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from adaptd import tables as t
from adaptd.errors import AdaptdError, Conflict
from adaptd.gate import Discordance, lower_bound, upper_bound
from adaptd.history import act
from adaptd.metrics import Comparison

NUMBER = 0  # its version
SWITCH, BACK = "switch", "switch-back"
CONFIDENCE = 0.95  # two-sided, of one look

Said = dict[str, str | None]  # per head


def answers(connection: Connection, domain: int, born: Mapping[int, int],
            read: Callable[[Any], Said]) -> dict[int, Said]:
    """Return what the incumbent said of events; `born` gives the seq at which each one's label was learned.

    What was learned after the switch is left out. `read` is `reader`'s.
    """
    found: dict[int, Said] = {}
    events = sorted(born)
    for start in range(0, len(events), 500):
        query = select(t.event.c.seq, t.event.c.answer).where(t.event.c.seq.in_(events[start:start + 500]))
        for r in connection.execute(query.where(t.event.c.answer.is_not(None))):
            found[r.seq] = read(json.loads(r.answer))
    moves = _moves(connection, domain) if found else []
    return {event: said for event, said in found.items() if not _switched(moves, born[event])}


def reader(targets: Callable[[Any], Mapping[str, str]], heads: Iterable[str]) -> Callable[[Any], Said]:
    """Return what reads an answer as the domain reads a label; one that is none is None for every head."""

    def read(answer: Any) -> Said:
        try:
            return dict(targets(answer))
        except AdaptdError:
            return dict.fromkeys(heads)

    return read


def _moves(connection: Connection, domain: int) -> list[Any]:
    query = select(t.action).where(t.action.c.domain == domain, t.action.c.what.in_((SWITCH, BACK)))
    return list(connection.execute(query.order_by(t.action.c.id)))


def _switched(moves: list[Any], seq: int) -> bool:
    """Say whether clients used adaptd's answers when a seq was given."""
    return [SWITCH] == [move.what for move in moves if move.seq < seq][-1:]


def switched(connection: Connection, domain: int) -> float | None:
    """Return when the operator switched, None while the incumbent is in production."""
    newest = _moves(connection, domain)[-1:]
    return newest[0].at if newest and newest[0].what == SWITCH else None


def switch(connection: Connection, domain: int, seq: int, live: int, back: bool, reason: str, actor: str,
           evidence: Mapping[str, Any] | None) -> None:
    """Write into the history that clients use adaptd's answers from now on, or (`back`) the incumbent's again.

    Raises
    ------
    Conflict
        They do so already.
    """
    if (switched(connection, domain) is None) == back:
        raise Conflict("the incumbent is in production already" if back else "clients use adaptd's answers already",
                       hint="adaptd history says since when")
    before, after = (live, NUMBER) if back else (NUMBER, live)
    act(connection, seq, domain, BACK if back else SWITCH, actor, reason, before=before, after=after, detail=evidence)


def shown(comparison: Comparison, at: float | None) -> dict[str, Any] | None:
    """Return the two side by side, over the newest labels, as status shows them; None where nothing was compared."""
    if not comparison.window:
        return None
    ours, other = zip(*comparison.window, strict=True)
    counts = Discordance.of(Counter(comparison.window))
    side = 1 - (1 - CONFIDENCE) / 2
    return {"version": NUMBER, "events": comparison.total, "compared": counts.n, "accuracy": {
                "adaptd": sum(ours) / counts.n, "incumbent": sum(other) / counts.n},
            "better": int(counts.better), "worse": int(counts.worse), "difference": counts.delta,
            "interval": [lower_bound(counts, side), upper_bound(counts, side)], "confidence": CONFIDENCE, "switched_at": at}
