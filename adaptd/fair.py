"""A queue that is fair and short: domains take turns, and within a domain its clients do, however much each of them sends.

What a client may let wait is as much as is answered soon, so that what is accepted is answered soon; the rest is refused
and told when to come again. Both follow the rate at which the queue is emptied.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from adaptd.errors import Busy

TURN = 4  # examples that a client is given before it is another's turn
FIRST, LEAST = 64, 16  # examples that may wait while the rate is not known, and whatever it is
WAIT_S = 0.1  # how long examples may wait
BULK = 4  # a large request may wait for so many of its own size
DECAY = 0.9  # of what is remembered of the rate, for each round
SOONEST_S, LATEST_S = 0.1, 60.0  # between which a refused client is told to come again


class Rate:
    """How much is done in a second of work, as it went lately."""

    def __init__(self) -> None:
        self._count = self._seconds = 0.0

    def took(self, count: int, seconds: float) -> None:
        """Note a piece of work."""
        self._count, self._seconds = DECAY * self._count + count, DECAY * self._seconds + seconds

    def seconds(self, count: int) -> float | None:
        """Say how long so much will take; None when nothing was done yet."""
        return self._seconds * count / self._count if self._count else None

    def within(self, seconds: float) -> int:
        """Say how much is done within so long; 0 when nothing was done yet."""
        return int(self._count * seconds / self._seconds) if self._seconds else 0

    def retry_after_s(self, ahead: int) -> float:
        """Say when to come again: when half of what is ahead will be done."""
        seconds = self.seconds(ahead)
        return 1.0 if seconds is None else round(min(LATEST_S, max(SOONEST_S, seconds / 2)), 1)


class Request(Protocol):
    """What may wait."""

    domain: str
    client: str
    examples: Sequence[Any]

    def weight(self, row: int) -> int:
        """Return for how many examples one of them counts in a turn, 1 at least."""
        ...


R = TypeVar("R", bound=Request)


@dataclass
class Piece(Generic[R]):
    """Some of a request's examples."""

    request: R
    rows: range


class FairQueue(Generic[R]):
    """Requests that wait, in a lane for each client of each domain; one thread takes from it, any may put."""

    def __init__(self, limit: int) -> None:
        self.rate = Rate()
        self._limit = limit
        self._lock = threading.Lock()
        self._lanes: dict[str, dict[str, deque[Piece[R]]]] = {}  # by domain and client; whose turn is next comes first
        self._sizes: dict[tuple[str, str], int] = {}  # examples in each lane
        self.waiting = 0

    def __bool__(self) -> bool:
        return self.waiting > 0

    def put(self, request: R) -> None:
        """Let a request wait; a client that lets nothing wait yet is refused only where nothing more fits at all.

        Raises
        ------
        Busy
            Too much waits, of all or of this client.
        """
        lane, size = (request.domain, request.client), len(request.examples)
        with self._lock:
            mine = self._room(lane, size)
            clients = self._lanes.setdefault(request.domain, {})
            clients.setdefault(request.client, deque()).append(Piece(request, range(size)))
            self._sizes[lane] = mine + size
            self.waiting += size

    def expect(self, domain: str, client: str) -> None:
        """Refuse a client now that would be refused with a single example; that spares reading what it sends."""
        with self._lock:
            self._room((domain, client), 1)

    def _room(self, lane: tuple[str, str], size: int) -> int:
        """Return how much a lane lets wait; raise Busy where so much more does not fit."""
        mine = self._sizes.get(lane, 0)
        lanes = len(self._sizes) + (not mine)
        share = (FIRST if self.rate.seconds(1) is None else max(LEAST, self.rate.within(WAIT_S))) // lanes
        if self.waiting and self.waiting + size > self._limit:
            raise self._busy(self.waiting)
        if mine and mine + size > max(share, BULK * size):
            raise self._busy(mine * lanes)
        return mine

    def _busy(self, ahead: int) -> Busy:
        return Busy("too many predictions are waiting", retry_after_s=self.rate.retry_after_s(ahead))

    def take(self, most: int) -> list[Piece[R]]:
        """Take a round of at most so many examples: a turn of each client of each domain, again and again."""
        taken: list[Piece[R]] = []
        with self._lock:
            while most > 0 and self._lanes:
                domain = next(iter(self._lanes))
                clients = self._lanes.pop(domain)
                client = next(iter(clients))
                requests = clients.pop(client)
                most -= self._turn((domain, client), requests, min(TURN, most), taken)
                if requests:
                    clients[client] = requests
                if clients:
                    self._lanes[domain] = clients
        return taken

    def _turn(self, lane: tuple[str, str], requests: deque[Piece[R]], most: int, taken: list[Piece[R]]) -> int:
        """Take a lane's first examples, until they weigh so much; return what they weigh."""
        count = weight = 0
        while requests and weight < most:
            first = requests.popleft()
            mine = 0
            while mine < len(first.rows) and weight < most:
                weight += first.request.weight(first.rows[mine])
                mine += 1
            rows, rest = first.rows[:mine], first.rows[mine:]
            taken.append(Piece(first.request, rows))
            count += mine
            if rest:
                requests.appendleft(Piece(first.request, rest))
        self.waiting -= count
        self._sizes[lane] -= count
        if not requests:
            del self._sizes[lane]
        return weight
