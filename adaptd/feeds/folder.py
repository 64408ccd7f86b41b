"""Follow a folder into which whole files are moved: JSONL, each read once, in the order of their names.

The cursor is a place in one file. A file that is read to its end, and committed, is moved to the folder `done` inside; when a
crash comes between the two, the cursor says that nothing is left of it. So nothing has to be remembered of earlier files.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from adaptd.feeds.jsonl import Jsonl
from adaptd.interfaces import FeedItem

DONE = "done"


@dataclass(kw_only=True)
class Folder:
    """Each file JSONL, complete when its name matches: write it under another name, then rename it."""

    name: ClassVar[str] = "folder"
    path: str
    pattern: str = "*.jsonl"
    poll_s: float = 0.5
    batch: int = 500  # lines at most
    _read: int = field(default=0, init=False, repr=False)  # bytes of the file that is being read

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        if self.poll_s <= 0 or self.batch < 1:
            raise ValueError("poll_s must be positive and batch at least 1")
        if "/" in self.pattern:
            raise ValueError("pattern is of names inside the folder, without /")

    def lag(self) -> int | None:
        """Return the bytes of the files that were not read yet; None while there is no folder."""
        try:
            return sum(file.stat().st_size for file in self._files()) - self._read
        except OSError:
            return None

    async def read(self, cursor: str | None) -> AsyncIterator[Sequence[FeedItem]]:
        """Yield the lines of each file; an empty batch means nothing new.

        Raises
        ------
        OSError
            The folder is not there, cannot be read, or a file cannot be moved to `done`.
        """
        place: dict[str, Any] = json.loads(cursor) if cursor else {}
        while True:
            files = await asyncio.to_thread(self._files)
            if not files:
                yield []
                await asyncio.sleep(self.poll_s)
                continue
            file = next((one for one in files if one.name == place.get("name")), files[0])
            within = json.dumps(place["position"]) if file.name == place.get("name") else None
            async for lines in Jsonl(path=str(file), follow=False, batch=self.batch).read(within):
                items = [_item(file.name, line) for line in lines]
                self._read = json.loads(items[-1].cursor)["position"]["offset"] if items else self._read
                yield items
            await asyncio.to_thread(_put_away, file)
            place, self._read = {}, 0

    def _files(self) -> list[Path]:
        with os.scandir(self.path) as entries:  # unlike a glob it says when there is no folder
            names = [entry.name for entry in entries if entry.is_file()]
        return sorted(Path(self.path) / name for name in names if Path(name).match(self.pattern))


def _item(file: str, line: FeedItem) -> FeedItem:
    """Return a line with a cursor that names its file, and a key by the file's name: inodes are used again."""
    assert line.key is not None
    _, _, place = line.key.partition(":")
    cursor = json.dumps({"name": file, "position": json.loads(line.cursor)})
    return replace(line, cursor=cursor, key=f"{hashlib.sha256(file.encode()).hexdigest()[:16]}:{place}", about={"file": file})


def _put_away(file: Path) -> None:
    """Move a file to `done`; another one of the same name keeps its own."""
    done = file.parent / DONE
    done.mkdir(exist_ok=True)
    target = done / file.name
    file.rename(target if not target.exists() else done / f"{file.name}.{file.stat().st_ino}")
