"""Files that other programs wrote, as events: tables, Label Studio, Rasa, SKOS, adaptive-classifier. No file is loaded by pickle.

Where: between a file and `adaptd ingest`. A row that cannot be an event says so and the others go on; what is wrong with
the file as a whole raises `BadFile`, a missing package `MissingExtra`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSONL = "jsonl"
READERS: Mapping[str, str] = {  # the module of each format's `rows`
    "csv": "tables", "tsv": "tables", "parquet": "tables", "label-studio": "labelstudio", "rasa": "rasa",
    "skos": "skos", "adaptive-classifier": "adaptive"}
FORMATS = (JSONL, *READERS)
OWN_FIELDS = ("jsonl", "csv", "tsv", "parquet")  # whose fields have names that the user may map
SUFFIXES: Mapping[str, str] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".pq": "parquet",
                               ".yml": "rasa", ".yaml": "rasa", ".ttl": "skos", ".nt": "skos", ".rdf": "skos"}


@dataclass(frozen=True)
class Row:
    """One event, or why there is none. `where` names it in its file."""

    where: str
    event: Any = None
    error: str | None = None


def format_of(file: str) -> str:
    """Return a file's format, by its name; a `.json` that begins with a list is Label Studio's.

    >>> format_of("tickets.csv"), format_of("-"), format_of("tickets.log")
    ('csv', 'jsonl', 'jsonl')
    """
    path = Path(file)
    if path.is_dir():
        return "adaptive-classifier"
    if path.suffix.lower() == ".json" and path.is_file():
        with path.open("rb") as stream:
            return "label-studio" if stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[") else JSONL
    return SUFFIXES.get(path.suffix.lower(), JSONL)


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read a file of a format other than JSONL; `fields` says what stands where, as far as the format leaves that open."""
    found: Iterator[Row] = importlib.import_module(f"adaptd.imports.{READERS[kind]}").rows(file, kind, fields)
    return found
