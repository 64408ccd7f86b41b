"""The process that daemons are forked from has imported adaptd before the first start is timed."""

from __future__ import annotations

import os

import pytest

from tests.forking import CONTEXT


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Let the server of forks import what it will."""
    first = CONTEXT.Process(target=os.getpid)
    first.start()
    first.join()
