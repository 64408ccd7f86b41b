"""The watchdog: systemd hears that the daemon lives only while every loop of it turns.

It has a thread of its own, so that it can name what hangs, the event loop among it, before systemd restarts the daemon.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable

from adaptd import systemd
from adaptd.health import STALL_S, Health

log = logging.getLogger(__name__)
LEAST_S = 15.0  # a loop may stand still for so long, whatever systemd's limit is
LOOP = "event-loop"  # of HTTP and feeds
HINT = "systemd restarts the daemon by its watchdog; the log has where every thread stood"


def patience_s() -> float:
    """Return how long a loop may stand still: twice systemd's limit, within bounds."""
    pause = systemd.watchdog_s()
    return STALL_S if pause is None else min(STALL_S, max(LEAST_S, 6 * pause))


class Watchdog:
    """Looks at every part's heartbeat, and feeds systemd's watchdog."""

    def __init__(self, health: Health, report: Callable[[str, str, str], None]) -> None:
        self.pause_s = systemd.watchdog_s() or STALL_S / 3
        self._health = health
        self._report = report
        self._over = threading.Event()
        self._looked = time.monotonic()
        self._told: list[str] = []
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._looked = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; systemd does not ask a service that stops."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.wait(self.pause_s):
            self.look()

    def look(self) -> None:
        """Look once: feed systemd's watchdog, or name what hangs."""
        slept, self._looked = time.monotonic() - self._looked, time.monotonic()
        stuck = self._health.stuck()
        if not stuck or slept > 2 * self.pause_s + 1.0:  # the whole process stood still: its loops had no turn either
            self._told = []
            systemd.notify("WATCHDOG=1")
        elif stuck != self._told:
            self._told = stuck
            self._report("stalled", f"no sign of life from: {', '.join(stuck)}", HINT)
            faulthandler.dump_traceback()
