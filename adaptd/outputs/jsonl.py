"""Append lines to a file, each a JSON object; what was synced to the disk is acknowledged.

A line that a crash cut is ended first, so that it spoils no other. Rotation by renaming works: the file is opened for each batch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from adaptd.interfaces import Send
from adaptd.records import Message


@dataclass(kw_only=True)
class JsonlFile:
    """The file is made, for its owner alone; its folder must be there."""

    name: ClassVar[str] = "jsonl"

    path: str

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        """Yield what appends."""

        async def send(messages: Sequence[Message]) -> None:
            await asyncio.to_thread(partial(self._append, b"".join(one.raw() + b"\n" for one in messages)))

        yield send

    def _append(self, lines: bytes) -> None:
        new = not Path(self.path).exists()
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = os.lseek(file, 0, os.SEEK_END)
            if end and os.pread(file, 1, end - 1) != b"\n":
                lines = b"\n" + lines
            while lines:
                lines = lines[os.write(file, lines):]
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            folder = os.open(Path(self.path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
