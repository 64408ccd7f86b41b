"""`adaptd ingest`: files over the socket, in batches; what is there already is recognised."""

from __future__ import annotations

import functools
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

from adaptd import imports
from adaptd.cli import options, show
from adaptd.client import Client
from adaptd.errors import AdaptdError, BadPayload, Busy, TooLarge
from adaptd.wire import rebuilt

BATCH_ITEMS, BATCH_BYTES = 500, 4 << 20
LINE_BYTES = 8 << 20  # the default limit of a request
TEXTS = ("csv", "tsv")  # tables whose cells are texts
COUNTED = ("accepted", "duplicates", "held")
TIMEOUT_S = 600.0  # a batch is learned when it returns


@dataclass(frozen=True)
class Line:
    """One event on its way, and where it came from."""

    where: str  # file:line, or what else names a row
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
@click.option("--format", "kind", type=click.Choice(imports.FORMATS), help="What the files are.  [default: by their names]")
@click.option("--map", "fields", metavar="FIELD=COLUMN,...", multiple=True, callback=lambda *given: _mapped(given[2]),
              help="Where an event's fields stand: text=body,label=queue,id=nr,time=sent,source=channel. Only these are taken.")
@click.argument("files", metavar="FILE...|-", nargs=-1, required=True,
                type=click.Path(exists=True, allow_dash=True, path_type=str))
@options.json_option
def ingest(domain: str | None, source: str, kind: str | None, fields: Mapping[str, str], files: tuple[str, ...],
           as_json: bool) -> int:
    """Read files into the journal.

    JSONL, CSV, TSV, Parquet, exports of Label Studio, NLU data of Rasa, or a folder that adaptive-classifier saved. A line or row
    is an event as POST /v1/{domain}/events takes it: {"text": …, "label": …}. One without "id" gets one made of the file's
    name, its place and its content, so that the same file can be read again. `-` is standard input, JSONL. Exit code 1
    when a line or row was rejected.

    \b
    Example:
      adaptd ingest tickets.jsonl --source crm
      adaptd ingest tickets.csv --map text=body,label=queue,id=number
    """
    asked = [(file, kind or imports.format_of(file)) for file in files]
    _check(asked, fields)
    sender = Sender(options.client(), options.route(options.chosen(domain), "events"))
    try:
        with _progress(files) as advance:
            for batch in _batches(_read(asked, fields, source, advance), sender.reject):
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


def _mapped(given: Sequence[str]) -> dict[str, str]:
    """Read --map."""
    pairs = [pair.partition("=") for one in given for pair in one.split(",") if pair.strip()]
    found = {name.strip(): path.strip() for name, _, path in pairs}
    if not all(found) or not all(found.values()) or len(found) < len(pairs):
        raise click.BadParameter("write FIELD=COLUMN, each field once, as text=body,label=queue")
    return found


def _check(asked: Sequence[tuple[str, str]], fields: Mapping[str, str]) -> None:
    for file, kind in asked:
        if file == "-" and kind != imports.JSONL:
            raise click.UsageError(f"standard input is read as JSONL; {kind} needs a file")
        if file != "-" and Path(file).is_dir() != (kind == "adaptive-classifier"):
            raise click.UsageError(f"{file} is {'a folder' if Path(file).is_dir() else 'no folder'}, not what {kind} is")
        if fields and kind not in (*imports.OWN_FIELDS, "label-studio"):
            raise click.UsageError(f"--map is about columns; {kind} has none")
        if kind == "label-studio" and not fields.keys() <= {"text", "label"}:
            raise click.UsageError("of Label Studio's tasks --map names text (a field of data) and label (a control) only")


def _batches(read: Iterator[Line | tuple[str, str]], reject: Callable[[str, str], None]) -> Iterator[list[Line]]:
    """Gather what is read, and pass on what could not be; a batch is bounded in items and in bytes."""
    batch: list[Line] = []
    size = 0
    for one in read:
        if not isinstance(one, Line):
            reject(*one)
            continue
        if batch and (len(batch) == BATCH_ITEMS or size + len(one.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.body)
    if batch:
        yield batch


def _read(asked: Sequence[tuple[str, str]], fields: Mapping[str, str], source: str,
          advance: Callable[[int], None]) -> Iterator[Line | tuple[str, str]]:
    """Read files in order; a line or row that is no event is its place and the reason."""
    for file, kind in asked:
        name = Path(file).name
        for where, size, row in _jsonl(file) if kind == imports.JSONL else _imported(file, kind, fields):
            advance(size)
            try:
                found = row()
                if found is None:
                    continue
                event, content = found
                if fields and kind in imports.OWN_FIELDS:
                    event = _taken(event, fields, name, where)
                if kind in TEXTS:
                    _seconds(event)
                yield Line(f"{file}:{where}", _body(event, source, lambda: _identity(name, where, content)))  # noqa: B023
            except ValueError as error:
                yield f"{file}:{where}", str(error)


def _seconds(event: dict[str, Any]) -> None:
    """Make a number of a time that a table of texts gives in seconds since the epoch."""
    at = event.get("time")
    if isinstance(at, str) and at.isascii() and at.replace(".", "", 1).isdecimal():
        event["time"] = float(at)


def _imported(file: str, kind: str, fields: Mapping[str, str]) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    path, taken = Path(file), 0
    for row in imports.rows(path, kind, fields):
        taken += row.error is None
        size = sum(len(value) + 1 for value in row.event.values() if isinstance(value, str)) if row.event else 0
        yield row.where, size, functools.partial(_good, row)
    if kind == "adaptive-classifier":
        from adaptd.imports.adaptive import trained

        if (before := trained(path)) > taken:
            show.say(f"{file}: it kept {taken} of the {before} examples that it learned; for the others read its training data")


def _good(row: imports.Row) -> tuple[Any, str]:
    """Return a row's event, and its content in one spelling."""
    if row.error is not None:
        raise ValueError(row.error)
    return row.event, json.dumps(row.event, sort_keys=True, default=repr)


def _jsonl(file: str) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    for number, raw in _lines(file):
        yield str(number), len(raw), functools.partial(_parsed_line, raw, number)


def _taken(event: Any, fields: Mapping[str, str], name: str, where: str) -> dict[str, Any]:
    """Take an event's fields from where --map says they stand, as `[feeds.X] fields` does."""
    from adaptd.feeds.elements import Fields
    from adaptd.interfaces import FeedItem

    try:
        found = Fields(paths=fields).event(FeedItem(value=event, cursor="", raw=b"", about={"file": name, "row": where}))
    except BadPayload as error:
        raise ValueError(error.message) from None
    return dict(found)


def _body(event: dict[str, Any], source: str, identity: Callable[[], str]) -> bytes:
    """Return an event with id and source, as JSON; ValueError says what is wrong."""
    if event.get("source") is None:
        event["source"] = source
    if event.get("id") is None:
        event["id"] = identity()
    try:
        return json.dumps(event).encode()
    except TypeError as error:
        raise ValueError(f"{error} (leave that column out: --map)") from None


def _identity(name: str, where: str, content: str) -> str:
    return hashlib.sha256(os.fsencode(f"{name}\0{where}\0") + content.encode()).hexdigest()[:24]


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


def _parsed_line(raw: bytes, number: int) -> tuple[Any, str] | None:
    """Return a line's event and its text; None for an empty line; ValueError says what is wrong."""
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
    return event, text


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
