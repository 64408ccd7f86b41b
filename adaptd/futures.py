"""Futures that somebody may have given up on: a cancelled wait must never end the thread that did the work; and tasks to end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

AGAIN_S = 0.5  # between two requests to end


def settle(done: Future[Any], value: Any) -> None:
    """Complete a future, unless its waiter cancelled it."""
    if done.set_running_or_notify_cancel():
        done.set_result(value)


def fail(done: Future[Any], error: BaseException) -> None:
    """Fail a future, unless its waiter cancelled it or it is settled already."""
    if not done.done() and done.set_running_or_notify_cancel():
        done.set_exception(error)


async def ended(tasks: Collection[asyncio.Task[Any]], limit_s: float) -> Collection[asyncio.Task[Any]]:
    """Cancel tasks until they have ended, for a time; return those that have not.

    Once is not enough: before Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with what it waits for.
    """
    loop = asyncio.get_running_loop()
    left, until = {task for task in tasks if not task.done()}, loop.time() + limit_s
    while left and loop.time() < until:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    return left
