"""What people and machines see: data on standard output, words on standard error.

What comes from the stream (labels, texts, reasons) is printed as plain text without control characters: it can
neither drive the terminal nor be taken for markup.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click


def say(text: str) -> None:
    """Print words for people on standard error."""
    click.echo("\n".join(plain(line) for line in text.splitlines()), err=True)


def data(document: Any) -> None:
    """Print a document as JSON."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def line(text: str) -> None:
    """Print one line of data."""
    click.echo(plain(text))


def plain(text: str) -> str:
    """Return a text without characters that a terminal would act upon.

    >>> plain("a\\x1b[31mb")
    'a�[31mb'
    """
    return "".join(c if c.isprintable() else "�" for c in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; numbers stand to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        right = bool(cells) and all(isinstance(row[index], (int, float)) for row in cells)
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        made.add_row(*(Text(plain(cell(value))) for value in row))
    Console().print(made)


def fields(document: Mapping[str, Any]) -> None:
    """Print one line per field."""
    width = max((len(name) for name in document), default=0)
    for name, value in document.items():
        line(f"{name:<{width}}  {cell(value)}")


def cell(value: Any) -> str:
    """Return a value as a table shows it.

    >>> [cell(v) for v in (None, 0.12345, True, "x", {"a": 1})]
    ['-', '0.1235', 'yes', 'x', '{"a": 1}']
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def evidence(prediction: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the remembered examples that weighed in, of all heads.

    >>> evidence({"heads": {"topic": {"evidence": [{"label": "a"}]}, "mood": {}}})
    [{'label': 'a'}]
    """
    heads = prediction.get("heads", {"": prediction})
    return [one for head in heads.values() for one in head.get("evidence", ())]


def percent(value: Any) -> str:
    """Return a share of one in percent."""
    return f"{value:.1%}" if isinstance(value, (int, float)) and not isinstance(value, bool) else cell(value)


def moment(at: Any) -> str:
    """Return seconds since the epoch as local time; other notations as they are."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if isinstance(at, (int, float)) else cell(at)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error when a person is looking; give what moves it on."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
