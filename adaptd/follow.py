"""Follow: a feed's items through the domain's door into the journal, cursor and events in one transaction.

A feed that fails is paused with growing pauses and reported; it never stops the daemon. When learning lags, the
feed waits: back-pressure, not loss.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Engine, insert, select, update

from adaptd import tables as t
from adaptd.db import Writer
from adaptd.errors import Busy, StoreFailed
from adaptd.history import act
from adaptd.host import Room
from adaptd.ingest import Door
from adaptd.interfaces import Feed, FeedItem
from adaptd.journal import Journal
from adaptd.learn import Learner

log = logging.getLogger(__name__)
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0


class Follower:
    """One feed into one domain."""

    def __init__(
        self,
        name: str,
        feed: Feed,
        source: str,
        domain: int,
        door: Door,
        journal: Journal,
        writer: Writer,
        reader: Engine,
        learner: Learner,
        queue: int,
        room: Room,
        report: Callable[[str, str, str], None],
    ) -> None:
        self.name = name
        self._feed = feed
        self._source = source
        self._domain = domain
        self._door = door
        self._journal = journal
        self._writer = writer
        self._reader = reader
        self._learner = learner
        self._limit = queue
        self._room = room
        self._report = report
        self._go = asyncio.Event()
        self._cursor: str | None = None
        self.errors = 0
        self.failing = False

    def status(self) -> dict[str, Any]:
        """Return state, offset, lag and errors."""
        state = "failing" if self.failing else "running" if self._go.is_set() else "paused"
        return {
            "state": state,
            "offset": json.loads(self._cursor) if self._cursor else None,
            "lag": self._feed.lag(),
            "errors": self.errors,
        }

    async def pause(self, paused: bool, actor: str) -> None:
        """Pause or go on, durably."""

        def write(connection: Any) -> None:
            connection.execute(update(t.feed).where(t.feed.c.name == self.name).values(paused=int(paused)))
            act(connection, self._writer.last_seq, self._domain, "feed-pause" if paused else "feed-resume", actor, self.name)

        await asyncio.wrap_future(self._writer.submit(write))
        self._go.clear() if paused else self._go.set()

    async def run(self) -> None:
        """Follow for ever; only a cancelled task or a failed store ends it."""
        await self._open()
        pause = PAUSE_S
        while True:
            try:
                async for batch in self._feed.read(self._cursor):
                    await self._go.wait()
                    if batch:
                        await self._take(batch)
                    self.failing, pause = False, PAUSE_S
                    if not self._go.is_set():
                        break
                await self._go.wait()
                await asyncio.sleep(PAUSE_S)  # a feed that came to its end is looked at again, not in a busy loop
            except StoreFailed:
                raise
            except Exception as error:  # whatever a feed raises: it is tried again, later and later
                self.errors += 1
                self.failing = True
                log.warning("feed %s: %s", self.name, error, extra={"action": "feed_failed", "feed": self.name})
                self._report("feed_failed", f"feed {self.name}: {error}", "it is tried again by itself")
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _open(self) -> None:
        with self._reader.connect() as connection:
            known = connection.execute(select(t.feed).where(t.feed.c.name == self.name)).one_or_none()
        if known is None:
            await asyncio.wrap_future(
                self._writer.submit(lambda c: c.execute(insert(t.feed).values(name=self.name, cursor=None, paused=0)) and None)
            )
        self._cursor = None if known is None else known.cursor
        if known is None or not known.paused:
            self._go.set()

    async def _take(self, batch: Sequence[FeedItem]) -> None:
        """Journal one batch: good events, what could not be read, and the cursor after it, together."""
        while self._learner.lag > self._limit or self._room.low:
            await asyncio.sleep(0.1)
        readable = [item for item in batch if item.error is None]
        items, rejected = self._door.items([item.value for item in readable], source=self._source)
        dead = [(item.error, item.raw) for item in batch if item.error is not None]
        dead += [(json.dumps(r["error"]), readable[r["index"]].raw) for r in rejected]
        while True:
            try:
                done = self._journal.append(
                    self._domain, [item for _, item in items], cursor=(self.name, batch[-1].cursor), dead=dead, bounded=True
                )
                break
            except Busy as busy:
                await asyncio.sleep(busy.retry_after_s)
        outcome = await asyncio.wrap_future(done)
        self._cursor = batch[-1].cursor
        refused = sum(receipt.error is not None for receipt in outcome.receipts)
        if dead or refused:
            self.errors += len(dead) + refused
            self._report(
                "feed_rejected", f"feed {self.name} gave items that were not taken", "the table `dead` has them, with reasons"
            )
