"""Server-sent events: what happens in the daemon, as it happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from adaptd.api.operations import Json

KEEP_ALIVE_S = 15.0  # a comment that often, so that proxies keep the connection and dead clients are found


async def server_sent(happenings: AsyncIterator[Json], closing: asyncio.Event,
                      allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield each happening as a server-sent event until the client goes or may not hear more, or the server closes."""
    stop = asyncio.create_task(closing.wait())
    upcoming = asyncio.create_task(_next(happenings))
    try:
        yield b": adaptd\n\n"  # the headers go out at once
        while True:
            await asyncio.wait((upcoming, stop), timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if stop.done() or not allowed():
                return
            if not upcoming.done():
                yield b": keep-alive\n\n"
                continue
            if (happening := upcoming.result()) is None:
                return
            yield _frame(happening)
            upcoming = asyncio.create_task(_next(happenings))
    finally:
        stop.cancel()
        upcoming.cancel()
        await asyncio.wait((upcoming,))  # a generator cannot be closed while it runs
        if close := getattr(happenings, "aclose", None):
            await close()


async def _next(happenings: AsyncIterator[Json]) -> Json | None:
    return await anext(happenings, None)


def _frame(happening: Json) -> bytes:
    name = str(happening.get("event", "message")).replace("\r", " ").replace("\n", " ")
    data = json.dumps(happening, ensure_ascii=False, separators=(",", ":"))  # one line: newlines are escaped
    return f"event: {name}\ndata: {data}\n\n".encode("utf-8", "backslashreplace")
