"""CSV, TSV and Parquet: a row is an event, a column a field; an empty cell is a field that is not there.

Both are streamed: a CSV by lines, a Parquet file by batches of its row groups.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from adaptd.errors import BadFile, MissingExtra
from adaptd.imports import Row

CELL = 8 << 20  # characters a cell may have, as a request over HTTP
BATCH = 500  # rows of a Parquet file in memory at once, and what a column chunk needs
BESIDE = "@"  # what a mapping takes from beside the row


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read a table."""
    return _parquet(file, fields) if kind == "parquet" else _csv(file, "\t" if kind == "tsv" else ",", fields)


def _csv(file: Path, delimiter: str, fields: Mapping[str, str]) -> Iterator[Row]:
    csv.field_size_limit(CELL)
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        first = stream.readline()
        if delimiter == "," and "," not in first and ";" in first:
            delimiter = ";"  # as spreadsheets write it where the comma is the decimal sign
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise BadFile(f"{file}: the header cannot be read: {error}", hint="is it a CSV file? name another --format") from None
        if not all(map(_is_utf8, header)):
            raise BadFile(f"{file}: not UTF-8", hint="convert the file, or name another --format")
        _check(file, header, fields)
        while True:
            at = reader.line_num + 1  # a cell may have several lines: the row's first
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(str(at), error=f"not CSV: {error} (mend the quotes, or split the cell)")
                continue
            if cells:
                yield _cells(str(at), header, cells)


def _cells(where: str, header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) != len(header):
        return Row(where, error=f"{len(cells)} cells, but the header has {len(header)} (quote what contains the separator)")
    event: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    for name, cell in event.items():
        if not _is_utf8(cell):
            return Row(where, error=f"{name!r} is not UTF-8 (convert the file)")
    return Row(where, event) if event else Row(where, error="the row is empty (delete it)")


def _is_utf8(text: str) -> bool:
    """Say whether what was read as UTF-8 was it: each byte that was not stands as a lone surrogate."""
    return text.isascii() or not any("\udc80" <= one <= "\udcff" for one in text)


def _check(file: Path, header: Sequence[str], fields: Mapping[str, str]) -> None:
    """Refuse a header without names, with a name twice, or without a column that is asked for."""
    twice = [name for name, times in Counter(header).items() if times > 1]
    if not header or twice or "" in header:
        what = f"the column {twice[0]!r} is there twice" if twice else "a column has no name" if header else "there is no header"
        raise BadFile(f"{file}: {what}", hint="the first line names the columns, each once")
    missing = [path for path in fields.values() if not path.startswith(BESIDE) and path not in header
               and path.split(".")[0] not in header]
    if missing:
        raise BadFile(f"{file}: there is no column {missing[0]!r}", field="map", hint=f"its columns: {', '.join(header)}")


def _parquet(file: Path, fields: Mapping[str, str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("reading Parquet needs pyarrow", hint="pip install 'adaptd[parquet]'") from None
    try:
        with parquet.ParquetFile(file) as table:
            _check(file, table.schema_arrow.names, fields)
            number = 0
            for batch in table.iter_batches(batch_size=BATCH):
                for values in pyarrow.RecordBatch.from_arrays(list(map(_in_microseconds, batch)), batch.schema.names).to_pylist():
                    number += 1
                    yield _values(str(number), values)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadFile(f"{file}: {str(error).splitlines()[0]}", hint="is it a whole Parquet file? name another --format") from None


def _in_microseconds(column: Any) -> Any:
    """Return a column without nanoseconds, which Python's times have not."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    return column


def _values(where: str, values: Mapping[str, Any]) -> Row:
    event = {name: _plain(value) for name, value in values.items()}
    event = {name: value for name, value in event.items() if value is not None}
    return Row(where, event) if event else Row(where, error="the row is empty (delete it)")


def _plain(value: Any) -> Any:
    """Return what JSON can say of a cell; NaN, pandas' word for nothing, is nothing."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
