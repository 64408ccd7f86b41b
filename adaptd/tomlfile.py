"""A configuration file as text: the line where a key stands, and the secrets that it names instead of holding them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptd.errors import BadConfig

VARIABLES: set[str] = set()  # of the environment, that a configuration of this process has named: secrets
DEPTH = 32


def secrets(file: Path) -> set[str]:
    """Return the values that the file names by reference: they are not to be shown."""
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    return {_secret(reference, file.parent) for reference in _references(raw)}


def secret_files(file: Path) -> list[Path]:
    """Return the files that the file names instead of holding what is in them."""
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    return [file.parent / reference["$file"] for reference in _references(raw) if "$file" in reference]


def _references(value: Any) -> Iterator[dict[str, Any]]:
    if _is_reference(value):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _references(inner)


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("$env", value.get("$file")), str)


def resolved(value: Any, folder: Path, depth: int = 0) -> Any:
    """Replace `{"$env": NAME}` and `{"$file": PATH}` by what they name."""
    if depth > DEPTH:
        raise BadConfig(f"nested deeper than {DEPTH}", hint="no setting lies so deep")
    if _is_reference(value):
        return _secret(value, folder)
    if isinstance(value, list):
        return [resolved(v, folder, depth + 1) for v in value]
    return {k: resolved(v, folder, depth + 1) for k, v in value.items()} if isinstance(value, dict) else value


def _secret(reference: Mapping[str, str], folder: Path) -> str:
    if (name := reference.get("$env")) is not None:
        VARIABLES.add(name)
        if name not in os.environ:
            raise BadConfig(f"environment variable {name} is not set", hint="set it, or name a file")
        return os.environ[name]
    try:
        return (folder / reference["$file"]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise BadConfig(f"secret file {reference['$file']}: {error.strerror}", hint="make it readable") from None
    except ValueError:
        raise BadConfig(f"secret file {reference['$file']!a}: it is not UTF-8, or no file can have that name",
                        hint="write the secret as text") from None


def line_of(text: str, where: Sequence[str]) -> int:
    """Return the line of a key, else of the innermost table or inline table around it."""
    table: list[str] = []
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\[\]]+)\]", line):
            table = here = _keys(header[1])
        elif setting := re.match(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=", line):
            here = table + _keys(setting[1])
        else:
            continue
        if here == list(where):
            return number
        if here == list(where[:len(here)]) and len(here) > depth:
            best, depth = number, len(here)
    return best


def _keys(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def stands(document: Any, where: Sequence[str]) -> bool:
    """Say whether the file itself has a value at a place."""
    for part in where:
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True
