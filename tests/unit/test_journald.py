"""A journal that does not take anything: nobody waits for it, and it hears later what it missed."""

from __future__ import annotations

import logging
import socket
import sys
from io import StringIO
from pathlib import Path

import pytest

from adaptd import journald


def test_a_journal_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is full, and nothing is written to standard error, which leads to it and would be waited for."""
    monkeypatch.setattr(journald, "SOCKET", tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(journald.SOCKET))
        said = StringIO()
        monkeypatch.setattr(sys, "stderr", said)
        handler = journald.Handler()
        monkeypatch.setattr(handler, "handleError", lambda record: pytest.fail("an error in logging"))
        for number in range(5000):
            handler.emit(logging.makeLogRecord({"msg": f"line {number}", "levelno": logging.INFO}))
        assert not said.getvalue()
        dropped = handler._dropped
        journal.setblocking(False)
        kept = []
        while True:
            try:
                kept.append(journal.recv(65536))
            except BlockingIOError:
                break
        assert len(kept) + dropped == 5000 and dropped
        handler.emit(logging.makeLogRecord({"msg": "the journal is there again", "levelno": logging.INFO}))
        assert journal.recv(65536).startswith(f"MESSAGE={dropped} lines are missing here".encode())
        assert journal.recv(65536).startswith(b"MESSAGE=the journal is there again") and not handler._dropped
