"""Tasks that are to end do, and those that do not in time are named."""

from __future__ import annotations

import asyncio

from adaptd.futures import ended


async def _deaf(times: int) -> None:
    while times:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            times -= 1


def test_a_task_that_loses_a_cancellation_is_asked_again() -> None:
    async def scene() -> None:
        done, once, often = (asyncio.create_task(one) for one in (asyncio.sleep(0), _deaf(1), _deaf(5)))
        await asyncio.sleep(0.01)
        assert await ended([done, once, often], 1.2) == {often}
        assert once.done() and not await ended([often], 60)

    asyncio.run(scene())
