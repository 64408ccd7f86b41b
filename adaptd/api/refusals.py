"""Refusals: who was not let in, by address. Guessing is made visible and cannot fill the log; it is not slowed down, since
behind one address (a proxy, this host) are guests, too, and 256 bits are not guessed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

log = logging.getLogger("adaptd.audit.refused")
MINUTE_S = 60.0
LOGGED, REPORTED = 10, 100  # of an address within a minute: each is logged up to here; a problem from here on
ADDRESSES = 1000  # that are counted at once


@dataclass
class _Count:
    since: float
    refused: int = 0


class Refusals:
    """Counts what was refused; `report` hears when it looks like guessing."""

    def __init__(self, report: Callable[[str, str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._report, self._clock = report, clock
        self._counts: dict[str, _Count] = {}

    def note(self, address: str, why: str, scope: Scope) -> None:
        """Count one, and say it where it is news."""
        now = self._clock()
        count = self._counts.pop(address, None)
        if count is None or now - count.since >= MINUTE_S:
            count = _Count(now)
        self._counts[address] = count  # the newest last
        if len(self._counts) > ADDRESSES:
            del self._counts[next(iter(self._counts))]
        count.refused += 1
        if count.refused <= LOGGED:
            log.warning("refused %s %s %a: %s%s", address, scope["method"], scope["path"][:200], why,
                        "; more of this minute are counted, not logged" if count.refused == LOGGED else "",
                        extra={"action": "refused", "address": address})
        elif count.refused == REPORTED:
            self._report("refused", f"{address} was refused {REPORTED} times within a minute: it has no valid token or signature",
                         "look who that is; a client with an old token needs a new one, anybody else a firewall")
