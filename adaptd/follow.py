"""Follow: a feed's items through the domain's door into the journal, cursor and events in one transaction.

A feed that fails is paused with growing pauses and reported; it never stops the daemon. When learning lags, the
feed waits: back-pressure, not loss.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, insert, select, update

from adaptd import deadletters
from adaptd import tables as t
from adaptd.db import Writer
from adaptd.errors import BadPayload, Busy, NotFound, Paused, StoreFailed
from adaptd.feeds.elements import Fields, element
from adaptd.history import act
from adaptd.host import Room
from adaptd.ingest import Door
from adaptd.interfaces import Delivered, Examined, Feed, FeedItem
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.records import DeadLetter, Feedback, Item, Problem, canonical

log = logging.getLogger(__name__)
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
PAUSED_S = 60.0  # after which a sender may try a paused feed again
EXAMINE_S = 60.0  # between two looks at whether a source may lose what it acknowledged
CHUNK = 256  # dead letters that are tried again in one transaction


class Follower:
    """One feed into one domain."""

    def __init__(
        self,
        name: str,
        feed: Feed,
        fields: Fields,
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
        self._fields = fields
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
        self._failure: Problem | None = None
        self._risks: Sequence[Problem] = ()
        self._examine_at = 0.0
        self.errors = 0
        self.beat = time.monotonic()  # when the source last gave something or failed: it may be silent for long

    def state(self) -> str:
        """Say whether it runs, is paused or fails."""
        return "failing" if self._failure else "running" if self._go.is_set() else "paused"

    def status(self) -> dict[str, Any]:
        """Return state, offset, lag and errors."""
        return {
            "state": self.state(),
            "offset": json.loads(self._cursor) if self._cursor else None,
            "lag": self._feed.lag(),
            "errors": self.errors,
        }

    def problems(self) -> list[Problem]:
        """Return what is wrong for as long as it is: the feed fails, or its source may lose what it acknowledged."""
        return [*([self._failure] if self._failure else []), *self._risks]

    async def pause(self, paused: bool, actor: str) -> None:
        """Pause or go on, durably."""

        def write(connection: Any) -> None:
            connection.execute(update(t.feed).where(t.feed.c.name == self.name).values(paused=int(paused)))
            act(connection, self._writer.last_seq, self._domain, "feed-pause" if paused else "feed-resume", actor, self.name)

        await asyncio.wrap_future(self._writer.submit(write))
        self._go.clear() if paused else self._go.set()

    def expect(self, headers: Mapping[str, str]) -> Delivered:
        """Look at what is sent before its body is read; return the feed that takes it.

        Raises
        ------
        NotFound
            This feed is not one that is sent to.
        BadSignature
            The headers alone show that who sends may not.
        """
        if not isinstance(self._feed, Delivered):
            raise NotFound(f"nothing can be sent to feed {self.name!r}", hint='kind = "webhook" takes deliveries')
        self._feed.announced(headers)
        return self._feed

    async def deliver(self, headers: Mapping[str, str], body: bytes) -> str | None:
        """Take in what was sent to this feed; return its id when it is committed, or kept among what was not taken.

        Raises
        ------
        NotFound
            This feed is not one that is sent to.
        BadSignature
            Who sends may not.
        Busy
            It is paused, the disk is nearly full, or too much waits; to be sent again later.
        """
        feed = self.expect(headers)
        feed.signed(headers, body)
        self._room.check()
        if not self._go.is_set():
            raise Paused(f"feed {self.name} is paused", retry_after_s=PAUSED_S)
        return await feed.deliver(headers, body)

    async def run(self) -> None:
        """Follow for ever; only a cancelled task or a failed store ends it."""
        await self._open()
        pause = PAUSE_S
        while True:
            batches = self._feed.read(self._cursor)
            try:
                async for batch in batches:
                    self.beat = time.monotonic()
                    await self._go.wait()
                    if batch:
                        await self._take(batch)
                    self._failure, pause = None, PAUSE_S
                    await self._examine()
                    if not self._go.is_set():
                        break
                await self._go.wait()
                await asyncio.sleep(PAUSE_S)  # a feed that came to its end is looked at again, not in a busy loop
            except StoreFailed:
                raise
            except Exception as error:  # whatever a feed raises: it is tried again, later and later
                self._failed(error)
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            finally:
                await _close(batches)

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        self.beat = time.monotonic()
        self._examine_at = 0.0  # the source may come back with other settings
        words = str(error) or type(error).__name__
        log.warning("feed %s: %s", self.name, words, extra={"action": "feed_failed", "feed": self.name})
        since = self._failure.since if self._failure else time.time()
        hint = getattr(error, "hint", "") or "it is tried again by itself"
        self._failure = Problem(code="feed_failed", message=f"feed {self.name}: {words}", since=since, hint=hint,
                                subject=f"feed {self.name}")

    async def _examine(self) -> None:
        """Ask now and then whether the source is set up to lose nothing. That this cannot be asked stops nothing."""
        if time.monotonic() < self._examine_at or not isinstance(self._feed, Examined):
            return
        self._examine_at = time.monotonic() + EXAMINE_S
        try:
            found = await asyncio.wait_for(self._feed.risks(), EXAMINE_S)
        except Exception as error:  # a feed may raise anything
            log.info("feed %s: its source could not be examined: %s", self.name, error)
            return
        since = {problem.message: problem.since for problem in self._risks}
        self._risks = [
            Problem(code="feed_may_lose", message=message, since=since.get(message, time.time()), hint=risk.hint)
            for risk in found
            for message in [f"feed {self.name}: {risk.message}"]
        ]

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
        """Journal one batch: good events, what was not taken, and the cursor after it, together."""
        while self._learner.lag > self._limit or self._room.low:
            await asyncio.sleep(0.1)
        good, errors = await self._through_the_door(batch)
        dead = [self._letter(batch[place], reason) for place, reason in errors.items()]
        letters = [self._letter(batch[place]) for place in good]
        while True:
            try:
                done = self._journal.append(
                    self._domain,
                    [*good.values()],
                    cursor=(self.name, batch[-1].cursor),
                    dead=dead,
                    letters=letters,
                    bounded=True,
                )
                break
            except Busy as busy:
                await asyncio.sleep(busy.retry_after_s)
        outcome = await asyncio.wrap_future(done)
        self._cursor = batch[-1].cursor
        refused = sum(receipt.error is not None for receipt in outcome.receipts)
        if dead or refused:
            self.errors += len(dead) + refused
            hint = f"adaptd feeds dead list {self.name}"
            self._report("feed_rejected", f"feed {self.name} gave items that were not taken", hint)

    async def _through_the_door(self, batch: Sequence[FeedItem]) -> tuple[dict[int, Item | Feedback], dict[int, str]]:
        """Return what the door takes and what not; images and sounds are looked at beside the event loop."""
        brings = any(self._door.uploads.are_in(item.value) for item in batch)
        return await asyncio.to_thread(self._admitted, batch) if brings else self._admitted(batch)

    def _admitted(self, batch: Sequence[FeedItem]) -> tuple[dict[int, Item | Feedback], dict[int, str]]:
        """Return what the door takes, by its place, and why it does not take the others."""
        events: dict[int, Any] = {}
        errors: dict[int, str] = {}
        for place, item in enumerate(batch):
            try:
                events[place] = self._fields.event(item)
            except BadPayload as error:
                errors[place] = canonical(error.body())
        places = [*events]
        admit = self._door.feedback if self._fields.labels else self._door.items
        items, rejected = admit([*events.values()], source=self._source)
        errors |= {places[one["index"]]: canonical(one["error"]) for one in rejected}
        return {places[index]: item for index, item in items}, errors

    def _letter(self, item: FeedItem, reason: str = "") -> DeadLetter:
        if self._door.redactor is not None:
            item, reason = self._door.redactor.letter(item, reason)
        about = canonical({"key": item.key, "about": item.about})
        # without a stable place a second delivery is known by what it is
        by_content = self._fields.needs_id or (self._fields.needs_key and item.key is None)
        key = hashlib.sha256(item.raw + about.encode()).hexdigest() if by_content else item.key
        return DeadLetter(raw=item.raw, reason=reason, key=key, about=about)

    async def retry(self, ids: Sequence[int] | None, actor: str) -> dict[str, Any]:
        """Let dead letters through the door again; what is taken leaves their table in the transaction that journals it."""
        self._room.check()
        taken, left, after = 0, [], 0
        while rows := await asyncio.to_thread(self._some, ids, after):
            after = rows[-1].id
            good, errors = await self._through_the_door([_again(row) for row in rows])
            items = {rows[place].id: item for place, item in good.items()}
            refused = {rows[place].id: reason for place, reason in errors.items()}
            _, gone = await asyncio.wrap_future(self._journal.revive(self._domain, items, refused))
            taken += len(gone)
            left += [row.id for row in rows if row.id not in gone]
        detail = {"taken": taken, "left": len(left)}
        await asyncio.wrap_future(self._writer.submit(
            lambda c: act(c, self._writer.last_seq, self._domain, "feed-retry", actor, self.name, detail=detail)))
        await asyncio.wrap_future(self._learner.when(self._writer.last_seq))
        return {"taken": taken, "left": left}

    def _some(self, ids: Sequence[int] | None, after: int) -> list[Any]:
        with self._reader.connect() as connection:
            return deadletters.some(connection, self.name, ids, after=after, limit=CHUNK)


def _again(row: Any) -> FeedItem:
    """Return a dead letter as the item that it was."""
    known = json.loads(row.about) if row.about else {"key": None, "about": {}}
    return element(row.raw, "null", key=known["key"], about=known["about"])


async def _close(batches: AsyncIterator[Sequence[FeedItem]]) -> None:
    """Let a feed close its connection; a generator does so when it is closed."""
    if isinstance(batches, AsyncGenerator):
        await batches.aclose()
