"""Uploads: how the bytes of an image or a sound come in, as the value of a payload's field.

Where: at the door, before anything reads the element. `{"$base64": "…"}` holds the bytes; `{"$path": "…"}` names a file on the
daemon's host, below a folder that the configuration allows, and is read there and then: what is journalled are the bytes.
`{"$blob": …}` is what the journal writes in their place, and nobody else.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptd.errors import BadPayload
from adaptd.records import BLOB, Blob

BASE64, PATH = "$base64", "$path"
NAMED = frozenset(("id", "label", "answer", "time", "source", "subject", "event", "teacher"))  # bytes are of payloads alone


@dataclass(frozen=True)
class Uploads:
    """Reads what comes in as bytes; `folders` are absolute."""

    limit: int  # bytes of one
    folders: tuple[Path, ...] = ()

    def taken(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an element with blobs in place of what stands for them.

        Raises
        ------
        BadPayload
            It is not base64, too large, or no file that may be read.
        """
        found = {name: one for name, value in fields.items() if name not in NAMED and (one := self._one(name, value)) is not None}
        return {**fields, **found} if found else fields

    def are_in(self, element: Any) -> bool:
        """Say whether an element brings bytes: it is then read beside the event loop."""
        if isinstance(element, dict):
            for value in element.values():
                if isinstance(value, dict) and (BASE64 in value or PATH in value):
                    return True
        return False

    def _one(self, name: str, value: Any) -> Blob | None:
        if not isinstance(value, dict) or not value.keys() & {BASE64, PATH, BLOB}:
            return None
        field = name[:200].encode("utf-8", "backslashreplace").decode()
        kind, given = next(iter(value.items()))
        if len(value) > 1 or kind == BLOB or not isinstance(given, str):
            raise BadPayload("bytes come as {\"$base64\": \"…\"}, or as {\"$path\": \"…\"}, and nothing beside", field=field,
                             hint="one of the two, with a string")
        data = self._decoded(given, field) if kind == BASE64 else self._read(given, field)
        if not data:
            raise BadPayload("no bytes", field=field, hint="leave the field out when there are none")
        return Blob(data=data)

    def _decoded(self, text: str, field: str) -> bytes:
        if len(text) > 4 * (self.limit // 3 + 1):
            raise self._too_large(field)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise BadPayload("not base64", field=field, hint="RFC 4648 with padding, no line breaks, no data: prefix") from None
        if len(data) > self.limit:
            raise self._too_large(field)
        return data

    def _read(self, name: str, field: str) -> bytes:
        """Read a file below one of the folders; links out of them do not count as below."""
        unreadable = BadPayload("no such file in the folders that may be read", field=field,
                                hint="a file below one of blobs.folders of the configuration; or send its bytes as $base64")
        for folder in self.folders:
            try:
                file = (folder / name).resolve(strict=True)
                if not file.is_relative_to(folder.resolve(strict=True)):
                    continue
                with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as opened:
                    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                        continue
                    data = opened.read(self.limit + 1)
            except (OSError, ValueError, RuntimeError):  # not there, not to be read, NUL in its name, links in a circle
                continue
            if len(data) > self.limit:
                raise self._too_large(field)
            return data
        raise unreadable

    def _too_large(self, field: str) -> BadPayload:
        return BadPayload(f"more than {self.limit} bytes", field=field, hint="send a smaller one, or raise blobs.bytes")
