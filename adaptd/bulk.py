"""Bulk: large batches of events go through the door in a process of its own, so that answers need not wait for Python meanwhile.

Where: in front of the domains' doors, for who sends a batch over HTTP; one process for all domains (`doorkeeper`). It is a help
and no more: until it is there (it starts with the first large batch), and when it has died, the daemon's own door does the
same. A domain that takes too long over a batch is ended there, which nobody could do here; so until the next process is
there, large batches are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Any

from adaptd import process
from adaptd.doorkeeper import LENGTH, Through, framed, packed, put_together
from adaptd.errors import Busy, PluginError
from adaptd.strictjson import Unread

log = logging.getLogger(__name__)
LEAST = 100  # elements: what is less takes about as long to be sent there
LIMIT_S, EACH_S = 30.0, 0.1  # over a batch, and more where it has more elements than fit
AHEAD = 2  # batches that it is given at a time: the next one lies there when it is done with one
LOAD_S, AGAIN_S = 60.0, 60.0
BUFFER = 1 << 24  # bytes of an answer that are read at once


class Bulk:
    """Hands batches to the doorkeeper, which answers in turn; `job` says what it must know, `limit` how many events may wait.

    Used in one event loop alone.
    """

    def __init__(self, job: Callable[[], bytes], limit: int) -> None:
        self._job = job
        self._limit = limit
        self._waiting = 0
        self._child: Process | None = None  # None: it is not ready
        self._starting: asyncio.Task[None] | None = None
        self._tried = -AGAIN_S  # when it was started last
        self._hung = False  # and is not ready again since
        self._number = 0  # of the batch that it was given last
        self._ahead = asyncio.Semaphore(AHEAD)
        self._turn = asyncio.Lock()

    async def items(self, domain: str, raw: Sequence[Any], source: str) -> Through | None:
        """Return what the door says of a batch; None: ask the door here.

        Raises
        ------
        PluginError
            The domain takes too long over it.
        Busy
            Too many events wait, or it is started again after that.
        """
        count = raw.about if isinstance(raw, Unread) else len(raw)
        if count < LEAST:
            return None
        if self._waiting and self._waiting + count > self._limit:
            raise Busy("too many events wait to be read")
        self._waiting += count
        try:
            async with self._ahead:
                child = self._ready()
                return None if child is None else await self._through(child, domain, raw, source, count)
        finally:
            self._waiting -= count

    def _ready(self) -> Process | None:
        """Return the process; where there is none, start one, unless that was tried just now."""
        if self._child is not None and self._child.returncode is None:
            return self._child
        if self._child is not None:
            log.warning("the process that reads large batches ended with exit code %s", self._child.returncode,
                        extra={"action": "no_doorkeeper"})
            self._child = None
        starting = self._starting is not None and not self._starting.done()
        if not starting and (self._hung or time.monotonic() - self._tried >= AGAIN_S):
            self._tried = time.monotonic()
            self._starting = asyncio.create_task(self._start(), name="doorkeeper")
        if self._hung:
            raise Busy("what reads large batches is started again", retry_after_s=2.0)
        return None

    async def _through(self, child: Process, domain: str, raw: Sequence[Any], source: str, count: int) -> Through | None:
        self._number, limit_s = self._number + 1, max(LIMIT_S, EACH_S * count)
        number = self._number
        try:
            _say(child, packed([number, domain, raw.body if isinstance(raw, Unread) else raw, source]))
            async with self._turn, asyncio.timeout(limit_s):  # it has the next batch when it is done with one
                if self._child is not child:
                    raise EOFError("it was ended over another batch")
                return put_together(await _answer(child), number)
        except TimeoutError:
            self._hung = True
            await self._end(child)
            raise PluginError(f"domain {domain!r} took more than {limit_s:g} s over a batch of about {count}",
                              hint="mend the plugin's `example`, or send smaller batches") from None
        except Exception as error:  # whatever it is, the batch comes through the door here
            first = self._child is child
            await self._end(child)
            if self._hung:  # over another batch: who sent this one is to try again
                self._ready()
            if first:
                log.warning("the process that reads large batches failed with one of domain %s: %r", domain, error,
                            extra={"action": "no_doorkeeper", "domain": domain})
            return None
        except asyncio.CancelledError:  # what it answers is nobody's: the next would take it for its own
            await self._end(child)
            raise

    async def close(self) -> None:
        """End the process."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self._child is not None:
            await self._end(self._child)

    async def _start(self) -> None:
        child: Process | None = None
        try:
            async with asyncio.timeout(LOAD_S):
                child = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", "adaptd.doorkeeper", stdin=PIPE,
                                                             stdout=PIPE, limit=BUFFER, env=process.environment())
                _say(child, self._job())
                await _answer(child)
        except Exception as error:  # it is a help and no more
            if child is not None:
                await self._end(child)
            self._hung = False
            log.warning("large batches come through the daemon's own door: %r", error, extra={"action": "no_doorkeeper"})
        except asyncio.CancelledError:
            if child is not None:
                await self._end(child)
            raise
        else:
            self._child, self._hung = child, False
            log.info("large batches come through a process of their own", extra={"action": "doorkeeper_ready"})

    async def _end(self, child: Process) -> None:
        if self._child is child:
            self._child = None
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def _say(child: Process, message: bytes) -> None:
    """Give a message to the process, as soon as it reads; those that wait are bounded."""
    assert child.stdin is not None
    child.stdin.write(framed(message))


async def _answer(child: Process) -> bytes:
    """Return the next answer; EOFError: the process ended."""
    assert child.stdout is not None
    return await child.stdout.readexactly(LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))[0])
