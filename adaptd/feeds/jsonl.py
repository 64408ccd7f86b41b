"""Follow a JSONL file: one event a line, as it is appended, over truncation and rotation.

The cursor is the place after a line: inode, offset and a hash of the file's beginning, so that a file that was
truncated, rewritten or replaced is noticed and read from its start (events are deduplicated by their id). A file that
was renamed inside its folder (`events.jsonl.1`) is read to its end before the new one is begun. The device is left
out: its number may change with a reboot, and inode and beginning are enough.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, ClassVar

from adaptd.errors import BadConfig
from adaptd.feeds.elements import KEPT, read_object
from adaptd.interfaces import FeedItem

HEAD = 256  # bytes of the beginning that tell one file from another
LINE = 8 << 20  # bytes a line may have, as a request over HTTP
BATCH = 8 << 20  # bytes after which a batch ends


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in one file. `skip`: inside a line that was too long, whose rest is not read."""

    inode: int
    head: str  # sha256 of the first bytes, at most HEAD, that lie before the offset
    offset: int = 0
    skip: bool = False

    def holds(self, descriptor: int) -> bool:
        """Say whether an open file is the one this place is in, still with everything before it."""
        found = os.fstat(descriptor)
        return (found.st_ino == self.inode and found.st_size >= self.offset
                and _head(descriptor, self.offset) == self.head)


@dataclass(kw_only=True)
class Jsonl:
    """Each line a JSON object as `POST /v1/{domain}/events` takes it; a line without "id" gets a stable one."""

    name: ClassVar[str] = "jsonl"
    path: str
    follow: bool = True  # wait for more at the end; else stop there
    poll_s: float = 0.5
    batch: int = 500  # lines at most
    _position: Position | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be followed; a file that is not there yet is waited for."""
        if self.poll_s <= 0 or self.batch < 1:
            raise ValueError("poll_s must be positive and batch at least 1")
        self._check(Path(self.path))

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the lines after the cursor; an empty batch means nothing new.

        Raises
        ------
        BadConfig
            The path is no regular file.
        OSError
            The file cannot be read.
        """
        self._position = Position(**json.loads(cursor)) if cursor else None
        while True:
            items = await asyncio.to_thread(self._next)
            yield items
            if not items:
                if not self.follow:
                    return
                await asyncio.sleep(self.poll_s)

    def lag(self) -> int | None:
        """Return the bytes after the last line read; None while there is no file."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        here = self._position
        return found.st_size - (here.offset if here and here.inode == found.st_ino else 0)

    def _next(self) -> Sequence[FeedItem]:
        """Read one batch from where the cursor's file is now, else from the start of the file at the path."""
        position = self._position
        if position is not None and (old := self._find(position)) is not None:
            with old:
                moved_on = os.fstat(old.fileno()).st_ino != _inode(self.path)
                items = self._lines(old, position, last=moved_on and _size(self.path) > 0)
            if items or not moved_on:
                return items
        if (file := self._open(Path(self.path))) is None:
            return []
        with file:
            start = Position(inode=os.fstat(file.fileno()).st_ino, head=_head(file.fileno(), 0))
            return self._lines(file, start, last=False)

    def _find(self, position: Position) -> BinaryIO | None:
        """Open the file that the cursor is in, by its own name or by the one it was rotated to."""
        path = self._named(position.inode)
        if path is None or (file := self._open(path)) is None:
            return None
        if position.holds(file.fileno()):
            return file
        file.close()
        return None

    def _named(self, inode: int) -> Path | None:
        path = Path(self.path)
        if _inode(path) == inode:
            return path
        try:
            with os.scandir(path.parent) as entries:
                return next((Path(e.path) for e in entries if _inode(e.path) == inode), None)
        except FileNotFoundError:
            return None

    def _open(self, path: Path) -> BinaryIO | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block
        except FileNotFoundError:
            return None
        file = os.fdopen(descriptor, "rb")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            self._check(path)
            return None
        return file

    def _check(self, path: Path) -> None:
        if path.exists() and not path.is_file():
            raise BadConfig(f"{path} is not a regular file", field="path",
                            hint="name a file with one JSON object a line; for a stream use adaptd ingest -")

    def _lines(self, file: BinaryIO, position: Position, *, last: bool) -> list[FeedItem]:
        """Read lines up to a batch; `last`: nothing more will be appended, so an unfinished line is one too."""
        items: list[FeedItem] = []
        for after, line in _pieces(file, position, last or not self.follow):
            if line.strip():
                items.append(_item(line, after))
            self._position = after
            if items and (len(items) >= self.batch or after.offset - position.offset >= BATCH):
                break
        return items


def _pieces(file: BinaryIO, position: Position, last: bool) -> Iterator[tuple[Position, bytes]]:
    """Yield each line with the place after it; of a line that is too long only its first piece counts."""
    file.seek(position.offset)
    while line := file.readline(LINE + 1):
        ended, skipped = line.endswith(b"\n"), position.skip
        if not ended and len(line) <= LINE and not last:
            return  # an unfinished line waits
        offset, cut = position.offset + len(line), not ended and len(line) > LINE
        position = replace(position, offset=offset, head=_head(file.fileno(), offset), skip=cut)
        yield position, b"" if skipped else line


def _item(line: bytes, after: Position) -> FeedItem:
    cursor = json.dumps(asdict(after))
    # the same on every reading; the digest tells apart what shares a place after a truncation or a reused inode
    key = f"{after.inode}:{after.offset - len(line)}:{hashlib.sha256(line).hexdigest()[:12]}"
    if len(line) > LINE:
        return FeedItem(value=None, cursor=cursor, raw=line[:KEPT], key=key, error=f"the line is longer than {LINE} bytes")
    try:
        value = read_object(line, "utf-8-sig" if after.offset == len(line) else "utf-8")
    except ValueError as error:
        return FeedItem(value=None, cursor=cursor, raw=line[:KEPT], key=key, error=f"the line is {error}")
    return FeedItem(value=value, cursor=cursor, raw=line, key=key)


def _head(descriptor: int, offset: int) -> str:
    return hashlib.sha256(os.pread(descriptor, min(HEAD, offset), 0)).hexdigest()


def _inode(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
