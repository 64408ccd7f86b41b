"""Rasa's NLU training data in YAML: each example of an intent is an event; marks of entities are taken out of the text.

Synonyms, lookup tables and regular expressions are no examples and are passed over, as is all outside `nlu`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from adaptd.errors import BadFile
from adaptd.imports import Row

# [Berlin](city), [Berlin](city:value), [Berlin]{"entity": "city"}, [Berlin][{"entity": "city"}, {"entity": "capital"}]
ENTITY = re.compile(r"\[([^\[\]]+)\](?:\([^()]+\)|\{[^{}]*\}|\[\s*\{[^\[\]]*\}\s*\])")


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read a file of training data."""
    for item in _items(file):
        if not isinstance(item, dict) or "intent" not in item:
            continue
        intent = item["intent"]
        if not isinstance(intent, str):
            yield Row(f"intent {intent!r}", error="the intent's name is not a text (put it into quotes)")
            continue
        for place, example in enumerate(_examples(item.get("examples")), 1):
            where = f"intent {intent}, example {place}"
            yield Row(where, error=example.error) if example.error else Row(where, {"text": example.event, "label": intent})


def plain(example: str) -> str:
    """Take the marks of entities out.

    >>> plain('from [Berlin]{"entity": "city", "role": "departure"} to [Rome](city:rome) [now]')
    'from Berlin to Rome [now]'
    """
    return ENTITY.sub(r"\1", example)


def _items(file: Path) -> list[Any]:
    try:
        found = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise BadFile(f"{file}: not YAML: {what}", hint="mend that line, or name another --format") from None
    items = found.get("nlu") if isinstance(found, dict) else None
    if not isinstance(items, list):
        raise BadFile(f"{file}: no list `nlu`", hint='Rasa\'s NLU data has "nlu:" at its top; Rasa 2 converts the older Markdown')
    return items


def _examples(given: Any) -> Iterator[Row]:
    """Yield the examples' texts: of a block of lines with a dash, or of a list with a `text` each."""
    if isinstance(given, str):
        for line in given.splitlines():
            if line.strip():
                yield _line(line.strip())
    elif isinstance(given, list):
        for one in given:
            text = one.get("text") if isinstance(one, dict) else None
            yield _line(text.strip(), dash=False) if isinstance(text, str) else Row("", error="no `text` in it (write - text: …)")
    else:
        yield Row("", error='no examples (write "examples: |" and a line with a dash for each)')


def _line(line: str, *, dash: bool = True) -> Row:
    if dash and not line.startswith("-"):
        return Row("", error='no dash before it (each example is a line that begins with "- ")')
    return Row("", plain(line.removeprefix("-").strip()))
