"""The doorkeeper: `python -m adaptd.doorkeeper`, which lets large batches through the doors of all domains, beside the daemon.

Where: a child of `bulk`. Messages are msgpack (https://msgpack.org), each behind its length. In: the `job`, then
`[number, domain, elements or the JSON of them, source]` again and again. Out: `true` when it is ready, then `[number, [places,
columns of the items, rejected]]`, or nil in their place for JSON that it leaves to the daemon.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

from adaptd import plugins, strictjson
from adaptd.config import Blobs, DomainSettings, Limits, Log, Settings
from adaptd.errors import BadRequest
from adaptd.host import OBJECTS, log_to_stderr
from adaptd.ingest import Door, Rejected
from adaptd.process import be_a_quiet_child
from adaptd.records import MISSING, STORED, Columns, Item

LENGTH = struct.Struct("!Q")
NICE = 0  # a client waits for it, as it does for the daemon
stored = attrgetter(*STORED)
NOTHING = msgpack.ExtType(0, b"")  # a label that was not given
Through = tuple[list[int], Columns, list[Rejected]]  # the places of the items, the items


def main() -> int:
    """Let through what the daemon gives, until it closes the pipe."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plugin prints
    asked = os.fdopen(0, "rb")

    def say(message: bytes) -> None:
        out.write(framed(message))
        out.flush()

    told = unpacked(_next(asked))
    log_to_stderr(Log.model_validate(told["log"]))
    be_a_quiet_child(told["parent_pid"], NICE)
    doors = _doors(told)
    gc.set_threshold(OBJECTS)
    say(packed(True))
    while message := _next(asked):
        number, domain, raw, source = unpacked(message)
        read = _read(raw, doors[domain]) if isinstance(raw, bytes) else raw
        say(packed([number, None if read is None else taken_apart(*doors[domain].items(read, source=source))]))
    return 0


def _read(body: bytes, door: Door) -> list[Any] | None:
    """Return a body's elements; None where the daemon is to see to it: where it must be refused, or brings bytes."""
    try:
        elements = strictjson.loads(body, lone_surrogates=True)
    except BadRequest:
        return None
    plain = isinstance(elements, list) and 0 < len(elements) <= door.limits.items and not any(map(door.uploads.are_in, elements))
    return elements if plain else None


def framed(message: bytes) -> bytes:
    """Return a message behind its length."""
    return LENGTH.pack(len(message)) + message


def _next(pipe: BinaryIO) -> bytes:
    """Return the next message, empty behind the last one."""
    length = pipe.read(LENGTH.size)
    return pipe.read(*LENGTH.unpack(length)) if len(length) == LENGTH.size else b""


def job(settings: Settings, key: bytes, folder: Path) -> bytes:
    """Return what it must know, and no more. No vocabulary: a file that was read at the daemon's start may be another one now."""
    return packed({"parent_pid": os.getpid(), "key": key, "folder": str(folder), "plugins": settings.plugins.allow,
                   "log": settings.log.model_dump(mode="json"), "limits": settings.limits.model_dump(mode="json"),
                   "blobs": settings.blobs.model_dump(mode="json"),
                   "domains": {name: {"kind": one.kind, "options": one.options, "redact": one.redact.model_dump(mode="json")}
                               for name, one in settings.served().items()}})


def _doors(told: Mapping[str, Any]) -> Mapping[str, Door]:
    """Build the domains as the daemon does, and their doors."""
    kinds = plugins.collect(plugins.load("adaptd", told["plugins"]), "register_domains")
    limits, blobs = Limits.model_validate(told["limits"]), Blobs.model_validate(told["blobs"])
    domains = {name: DomainSettings.model_validate(one) for name, one in told["domains"].items()}
    return {name: Door.of(plugins.domain(kinds, name, one), name, one, limits, blobs, told["key"], Path(told["folder"]))
            for name, one in domains.items()}


def packed(value: Any) -> bytes:
    """Return a message; a string may have lone surrogates, which the door will refuse."""
    made: bytes = msgpack.packb(value, default=_nothing, unicode_errors="surrogatepass")
    return made


def unpacked(message: bytes) -> Any:
    """Return what a message says."""
    return msgpack.unpackb(message, ext_hook=lambda code, data: MISSING, unicode_errors="surrogatepass", strict_map_key=False)


def _nothing(value: Any) -> Any:
    if value is MISSING:
        return NOTHING
    raise TypeError(f"{type(value).__name__} cannot be sent")


def taken_apart(good: Sequence[tuple[int, Item]], rejected: Sequence[Rejected]) -> list[Any]:
    """Return what the door said, as it is sent."""
    columns = [*map(_column, zip(*[stored(item) for _, item in good], strict=True))] or [()] * len(STORED)
    return [[place for place, _ in good], columns, rejected]


def _column(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a column; of one that says the same everywhere, as most do, its one value."""
    first = values[:1]
    same = values.count(*first) == len(values) and (first == ({},) or len({*map(id, values)}) == 1)  # `count` takes 1 for True
    return first if same else values


def put_together(message: bytes, wanted: int) -> Through | None:
    """Return what the door said of a batch, if anything; EOFError: this is another one's.

    The items are as they are stored: what the domain made of them is not with them.
    """
    number, through = unpacked(message)
    if number != wanted:
        raise EOFError(f"an answer to batch {number}, not to {wanted}")
    if through is None:
        return None
    places, told, rejected = through
    return places, Columns([column * len(places) if len(column) == 1 else column for column in told]), rejected


if __name__ == "__main__":
    sys.exit(main())
