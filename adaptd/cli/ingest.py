"""`adaptd ingest`: JSONL files over the socket, in batches; what is there already is recognised."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import click

from adaptd.cli import options, show
from adaptd.client import Client
from adaptd.errors import AdaptdError, Busy, TooLarge
from adaptd.wire import rebuilt

BATCH_ITEMS, BATCH_BYTES = 500, 4 << 20
LINE_BYTES = 8 << 20  # the default limit of a request
COUNTED = ("accepted", "duplicates", "held")
TIMEOUT_S = 600.0  # a batch is learned when it returns


@dataclass(frozen=True)
class Line:
    """One event on its way, and where it came from."""

    where: str  # file:line
    body: bytes  # the JSON object


@dataclass
class Sender:
    """Sends batches, waits when the daemon is busy, counts what became of each line."""

    client: Client
    path: str
    counts: Counter[str] = field(default_factory=Counter)

    def send(self, batch: Sequence[Line]) -> None:
        """Send a batch; one that is refused as a whole is halved until the line at fault stands alone."""
        status, document = self._exchange(b"[" + b",".join(line.body for line in batch) + b"]")
        if "rejected" in document:
            self.counts.update({name: document.get(name, 0) for name in COUNTED})
            for one in document["rejected"]:
                self.reject(batch[one["index"]].where, _words(one["error"]))
        elif status in (400, TooLarge.status, 422):
            if len(batch) > 1:
                self.send(batch[:len(batch) // 2])
                self.send(batch[len(batch) // 2:])
            else:
                self.reject(batch[0].where, _words(document.get("error", {})))
        else:
            raise rebuilt(status, document)

    def reject(self, where: str, reason: str) -> None:
        """Count and report a line that is not taken."""
        self.counts["rejected"] += 1
        show.say(f"{where}: {reason}")

    def _exchange(self, body: bytes) -> tuple[int, Mapping[str, Any]]:
        while True:
            status, document, retry_after = self.client.exchange("POST", self.path, body, TIMEOUT_S)
            if status < 400 or not isinstance(error := rebuilt(status, document, retry_after), Busy):
                return status, document
            time.sleep(error.retry_after_s)  # as the daemon asked: back-pressure reaches the file


@click.command()
@options.config_option
@options.domain_option
@click.option("--source", metavar="S", default="ingest", show_default=True, help="The source of lines that name none.")
@click.argument("files", metavar="FILE...|-", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=str))
@options.json_option
def ingest(domain: str | None, source: str, files: tuple[str, ...], as_json: bool) -> int:
    """Read JSONL files into the journal.

    Each line is an event as POST /v1/{domain}/events takes it: {"text": …, "label": …}. A line without "id" gets one
    made of the file's name, the line's number and its content, so that the same file can be read again. `-` is
    standard input. Exit code 1 when a line was rejected.

    \b
    Example:
      adaptd ingest tickets.jsonl --source crm
    """
    sender = Sender(options.client(), options.route(options.chosen(domain), "events"))
    try:
        with _progress(files) as advance:
            for batch in _batches(files, source, sender.reject, advance):
                sender.send(batch)
    except AdaptdError:
        show.say(f"stopped after {_summary(sender.counts)}; run the same command again: nothing counts twice")
        raise
    if as_json:
        show.data({name: sender.counts[name] for name in (*COUNTED, "rejected")})
    else:
        show.line(_summary(sender.counts))
    return 1 if sender.counts["rejected"] else 0


def _summary(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in (*COUNTED, "rejected"))


def _words(error: Mapping[str, Any]) -> str:
    hint = f" ({error['hint']})" if error.get("hint") else ""
    return f"{error.get('message', 'rejected')}{hint}"


def _batches(files: Sequence[str], source: str, reject: Callable[[str, str], None],
             advance: Callable[[int], None]) -> Iterator[list[Line]]:
    """Read files in order; a batch is bounded in items and in bytes."""
    batch: list[Line] = []
    size = 0
    for file in files:
        for number, raw in _lines(file):
            advance(len(raw))
            try:
                body = _event(raw, Path(file).name, number, source)
            except ValueError as error:
                reject(f"{file}:{number}", str(error))
                continue
            if body is None:
                continue
            if batch and (len(batch) == BATCH_ITEMS or size + len(body) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(Line(f"{file}:{number}", body))
            size += len(body)
    if batch:
        yield batch


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines; one that is too long comes cut, and its rest is skipped, so that memory is bounded."""
    with _opened(file) as stream:
        number = 0
        while raw := stream.readline(LINE_BYTES + 1):
            number += 1
            yield number, raw
            rest = raw
            while len(rest) > LINE_BYTES and not rest.endswith(b"\n"):
                rest = stream.readline(LINE_BYTES + 1)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    with open(file, "rb") as stream:
        yield stream


def _event(raw: bytes, name: str, number: int, source: str) -> bytes | None:
    """Return a line's event with id and source, as JSON; None for an empty line; ValueError says what is wrong."""
    if len(raw) > LINE_BYTES:
        raise ValueError(f"longer than {LINE_BYTES} bytes (split the event)")
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start} (convert the file)") from None
    if not text:
        return None
    event = _parsed(text)
    if not isinstance(event, dict):
        raise ValueError('not a JSON object (one {"text": …} a line)')
    if event.get("source") is None:
        event["source"] = source
    if event.get("id") is None:
        event["id"] = hashlib.sha256(os.fsencode(f"{name}\0{number}\0") + text.encode()).hexdigest()[:24]
    return json.dumps(event).encode()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply (flatten the payload)") from None


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON can hold (leave the field out, or send null)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the field {twice!r} stands there twice (keep one)")
    return found


@contextmanager
def _progress(files: Sequence[str]) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error when a person is looking."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    total = None if "-" in files else sum(Path(file).stat().st_size for file in files)
    columns = (TextColumn("ingest"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("ingest", total=total)
        yield lambda size: bar.advance(task, size)
