"""Standby: a daemon on a store in PostgreSQL that another one holds. It keeps ready to take over, and says so.

Where: in the daemon's place until it has the store. Plugins and encoders are loaded, the versions' files are mirrored,
and it asks for the store again and again; `adaptd.postgres` says who gets it, and when.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from adaptd import db, mirror, systemd
from adaptd.errors import NotReady, NotRunning, StoreLocked, StoreUnreadable
from adaptd.paths import Paths
from adaptd.status import stopped_status

log = logging.getLogger(__name__)
ASK_S = 0.2  # between two tries to take the store, each of which waits a second for it
MIRROR_S = 5.0  # between two looks at the versions' files
Json = dict[str, Any]


class Standby:
    """What answers HTTP meanwhile: the status of the store; everything else is another daemon's."""

    def __init__(self, paths: Paths, held: str, listening: list[str]) -> None:
        self._paths = paths
        self._held = held
        self._listening = listening
        self._began = self._mirrored = time.monotonic()
        self._reader = db.reading_engine(paths.store)
        self._known: mirror.Known = set()

    async def wait(self, take: Callable[[], None], stop: asyncio.Event) -> bool:
        """Return True once the store is taken, False when it is told to stop before that."""
        log.info("standing by: %s", self._held, extra={"action": "standby"})
        systemd.notify("READY=1", f"STATUS=standing by: {self._held}")
        await asyncio.to_thread(self._mirror)
        while not stop.is_set():
            try:
                await asyncio.to_thread(take)
                log.warning("taking the store over", extra={"action": "take_over"})
                systemd.notify("STATUS=taking the store over")
                self._reader.dispose()
                return True
            except StoreLocked as held:
                self._held = held.message
            except StoreUnreadable as error:
                self._held = error.message
            if time.monotonic() - self._mirrored > MIRROR_S:
                await asyncio.to_thread(self._mirror)
            systemd.notify("WATCHDOG=1")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), ASK_S)
        return False

    def _mirror(self) -> None:
        """Bring the versions' files here; what does not come now comes when the store is taken."""
        self._mirrored = time.monotonic()
        try:
            with self._reader.connect() as connection:
                mirror.fetch(connection, self._paths, self._known)
        except (SQLAlchemyError, StoreUnreadable) as error:
            log.warning("the versions' files are not mirrored: %s", error, extra={"action": "mirror"})

    # -- what it is asked ----------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Say who holds the store."""
        raise self._not_ready()

    def status(self) -> Json:
        """Return the status of the store as its tables tell it."""
        problem = {"code": "standby", "message": f"this daemon stands by: {self._held}", "since": time.time(),
                   "hint": "it takes over by itself; ask the other one"}
        mine = {"state": "standby", "pid": os.getpid(), "uptime_s": round(time.monotonic() - self._began, 1),
                "listening": self._listening}
        try:
            document = stopped_status(self._paths)
        except (StoreUnreadable, NotRunning):  # it is away, or only being made
            document = {"domains": {}, "seq": 0, "feeds": {}}
        return {**document, **mine, "problems": [problem]}

    def metrics(self) -> bytes:
        """Refuse: figures are the other one's."""
        raise self._not_ready()

    def subscribe(self) -> AsyncIterator[Json]:
        """Refuse: nothing happens here."""
        raise self._not_ready()

    def __getattr__(self, name: str) -> Any:
        """Refuse every other operation."""
        async def refuse(*_: Any, **__: Any) -> Any:
            raise self._not_ready()

        return refuse

    def _not_ready(self) -> NotReady:
        return NotReady(f"this daemon stands by: {self._held}", hint="ask the other one; this one takes over when it has gone")
