"""journald's own protocol: a log record with its fields, where standard error goes to the journal anyway."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
import sys
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
FIELDS = ("action", "actor", "address", "domain", "feed", "status", "version")  # of a record; ADAPTD_ACTION …
NOTICE = logging.makeLogRecord({"name": __name__, "levelno": logging.WARNING, "action": "log_dropped"})
PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def is_stderr() -> bool:
    """Say whether standard error is the journal: systemd names its device and inode in JOURNAL_STREAM."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}" and SOCKET.exists()


class Handler(logging.Handler):
    """Sends each record as one entry."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # a journal that hangs must not hang the daemon
        self._dropped = 0
        self.setFormatter(logging.Formatter("%(message)s"))  # time and level are fields; a traceback follows the message

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; what the journal does not take now is dropped, and counted when it takes something again.

        Standard error is no way around: it leads to the same journal, and waits for it.
        """
        try:
            data = entry(record, self.format(record))
            try:
                if self._dropped:
                    self._send(entry(NOTICE, f"{self._dropped} lines are missing here: the journal did not take them"))
                    self._dropped = 0
                self._send(data)
            except OSError:
                self._dropped += 1
        except Exception:
            self.handleError(record)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendto(data, str(SOCKET))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # what is too long for a datagram goes in a sealed file
                raise
            descriptor = os.memfd_create("adaptd-log", os.MFD_ALLOW_SEALING)
            try:
                os.write(descriptor, data)
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS,
                            fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
                socket.send_fds(self._socket, [b""], [descriptor], 0, str(SOCKET))
            finally:
                os.close(descriptor)


def entry(record: logging.LogRecord, text: str) -> bytes:
    r"""Return a record in the journal's format.

    >>> entry(logging.makeLogRecord({"name": "adaptd", "levelno": 30, "action": "stalled"}), "two\nlines")[:37]
    b'MESSAGE\n\t\x00\x00\x00\x00\x00\x00\x00two\nlines\nPRIORITY=4\n'
    """
    fields = {"MESSAGE": text, "PRIORITY": PRIORITY.get(record.levelno, 5), "SYSLOG_IDENTIFIER": "adaptd",
              "LOGGER": record.name, "THREAD_NAME": record.threadName,
              "CODE_FILE": record.pathname, "CODE_LINE": record.lineno, "CODE_FUNC": record.funcName}
    fields |= {f"ADAPTD_{name.upper()}": getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
    return b"".join(_field(name, str(value).encode(errors="replace")) for name, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
