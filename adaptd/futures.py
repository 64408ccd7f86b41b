"""Settling futures that somebody may have given up on: a cancelled wait must never end the thread that did the work."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any


def settle(done: Future[Any], value: Any) -> None:
    """Complete a future, unless its waiter cancelled it."""
    if done.set_running_or_notify_cancel():
        done.set_result(value)


def fail(done: Future[Any], error: BaseException) -> None:
    """Fail a future, unless its waiter cancelled it or it is settled already."""
    if not done.done() and done.set_running_or_notify_cancel():
        done.set_exception(error)
