"""sd_notify(3): tell systemd what the daemon is doing, when it was started by systemd."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send lines like READY=1 to systemd; say whether there was one to listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(lines).encode(), "\0" + address[1:] if address.startswith("@") else address)
    return True


def watchdog_s() -> float | None:
    """Return how often systemd wants to hear WATCHDOG=1: a third of its limit, None without a watchdog."""
    limit = os.environ.get("WATCHDOG_USEC")
    if not limit or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 3e6
