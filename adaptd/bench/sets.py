"""The data: labelled texts from the sets beside the project, or from a user's own file."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptd import imports
from adaptd.errors import AdaptdError, NotFound
from adaptd.records import Example

BESIDE = Path("..") / "shared" / "data"  # seen from the project's root
PER_EXPERIENCE = {"clinc150": 15, "banking77": 11, "zh_thucnews": 2}  # others: a tenth of the classes
OUT_OF_SCOPE = "oos"  # CLINC150's queries that have no class
BANKING = ("banking", "credit_cards")  # its domains that other sets here are about
TIMES = ("time", "ts", "timestamp")


class BadData(AdaptdError):
    """The file is not one that can be benchmarked."""

    code = "bad_data"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What serves a set, and how what it reads is read without a daemon; by default texts, as `adaptd init` has it."""

    domain: str = "text"
    config: str = ""  # TOML in place of the file that `adaptd init` writes
    variables: Mapping[str, str] = field(default_factory=dict)  # of the daemon's environment
    encoder: Callable[[], Any] | None = None  # None: the one of texts, or of numbers
    example: Callable[[Any], Example] = lambda text: Example(text=text)
    peers: tuple[str, ...] = ()  # () = those of the part
    block: int | None = None  # events of a stream that are answered before their labels come; None: those of the part


@dataclass
class Rows:
    """What is labelled, in order: texts, or payloads."""

    texts: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)  # strings; of texts that are tagged their spans

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, n: int) -> Rows:
        """Return the first n."""
        return Rows(self.texts[:n], self.labels[:n])


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set by its splits; a stream has one, sorted by time."""

    name: str
    splits: Mapping[str, Rows]
    timed: bool
    setting: Setting = Setting()
    classes: int | None = None  # of an experience
    changes: tuple[int, ...] = ()  # events of a stream at which it changes

    def split(self, name: str) -> Rows:
        """Return a split.

        Raises
        ------
        NotFound
            The set has none of that name.
        """
        if name not in self.splits:
            raise NotFound(f"{self.name} has no split {name!r}", hint=f"it has: {', '.join(self.splits)}")
        return self.splits[name]

    def sampled(self, each: int, seed: int) -> DataSet:
        """Return at most so many rows of each class in each split, in their order."""
        return replace(self, splits={name: _sampled(rows, each, seed) for name, rows in self.splits.items()})

    def in_time(self) -> Rows:
        """Return all rows in the order of time."""
        if not self.timed:
            raise NotFound(f"{self.name} has no times", hint="a prequential benchmark wants a stream with time stamps")
        return self.split("all")

    @property
    def per(self) -> int:
        """Return how many classes make an experience."""
        return self.classes or PER_EXPERIENCE.get(self.name, max(1, len(set(self.split("train").labels)) // 10))


def _sampled(rows: Rows, each: int, seed: int) -> Rows:
    left = Counter[str]()
    chosen = []
    for place in np.random.RandomState(seed).permutation(len(rows)).tolist():
        left[rows.labels[place]] += 1
        chosen += [place] if left[rows.labels[place]] <= each else []
    return Rows([rows.texts[i] for i in sorted(chosen)], [rows.labels[i] for i in sorted(chosen)])


def data_folder(given: Path | None) -> Path:
    """Return the folder of the sets: the one given, else the one beside the project.

    Raises
    ------
    NotFound
        There is none.
    """
    root = Path(__file__).resolve().parents[2]
    places = [given] if given else [root / BESIDE, Path.cwd() / BESIDE]
    found = next((place.resolve() for place in places if place.is_dir()), None)
    if found is None:
        raise NotFound(f"no data sets at {' or '.join(map(str, places))}", field="data-dir",
                       hint="name their folder with --data-dir, or benchmark your own file: adaptd bench FILE")
    return found


def load(name: str, folder: Path, model: str | None = None, prefix: str = "") -> DataSet:
    """Read FOLDER/NAME/data.jsonl.gz, or data.npz of images, sounds and numbers; `model`: the encoder, `prefix`: of texts.

    Raises
    ------
    NotFound
        There is no such set.
    """
    file = folder / name / "data.jsonl.gz"
    if (numbers := file.with_name("data.npz")).is_file():
        from adaptd.bench import arrays

        return arrays.load(name, numbers, model)
    if not file.is_file():
        known = sorted({path.parent.name for path in folder.glob("*/data.*")})
        raise NotFound(f"no set {name!r} in {folder}", field="set", hint=f"there are: {', '.join(known) or 'none'}")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    if "tokens" in read[0]:
        from adaptd.bench import tagged

        return tagged.load(name, read, model)
    splits: dict[str, Rows] = {}
    for row in read:
        if row["label"] != OUT_OF_SCOPE:
            into = splits.setdefault(row.get("split", "all"), Rows())
            into.texts.append(row["text"])
            into.labels.append(row["label"])
    timed = any("ts" in row for row in read)
    if "train" not in splits and "dev" in splits:
        splits["train"] = splits.pop("dev")  # what there is to learn from
    return DataSet(name=name, splits=splits, timed=timed, setting=_read_by(model, prefix) if model else Setting())


def _read_by(model: str, prefix: str) -> Setting:
    """Serve texts with another encoder than the one that `adaptd init` gives."""
    from adaptd.model.encoder import Transformers

    return Setting(variables={"ADAPTD_ENCODERS__DEFAULT__OPTIONS": json.dumps({"model": model, "prefix": prefix})},
                   encoder=lambda: Transformers(model=model, prefix=prefix))


def outsiders(name: str, folder: Path) -> list[str]:
    """Return texts that belong to no class of a set: CLINC150's own, or CLINC150's test queries, those on banking apart.

    Raises
    ------
    NotFound
        There is no CLINC150.
    """
    file = folder / "clinc150" / "data.jsonl.gz"
    if not file.is_file():
        raise NotFound(f"no clinc150 in {folder}", field="data-dir", hint="what is out of scope comes from it")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["split"] == "test"]
    return [row["text"] for row in rows if (row["label"] == OUT_OF_SCOPE if name == "clinc150" else
                                            row["label"] != OUT_OF_SCOPE and row["domain"] not in BANKING)]


def read_file(file: Path) -> DataSet:
    """Read a user's CSV or JSONL with text and label, and time if it has one; sorted by time if so.

    Raises
    ------
    BadData
        Its kind is not known, or a column is missing.
    """
    kind = imports.format_of(str(file))
    if kind == imports.JSONL and file.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise BadData(f"{file}: {file.suffix or 'no suffix'}",
                      hint="give a .csv, .tsv, .parquet or .jsonl with text, label and perhaps time, or a file of docs/import.md")
    table = list(_json_lines(file) if kind == imports.JSONL else _imported(file, kind))
    if not table:
        raise BadData(f"{file} has no rows")
    for column in ("text", "label"):
        if all(row.get(column) is None for row in table):
            raise BadData(f"{file} has no {column!r}", field=column, hint=f"it has: {', '.join(map(str, table[0]))}")
    clock = next((name for name in TIMES if any(row.get(name) is not None for row in table)), None)
    kept = [row for row in table if row.get("text") and row.get("label") not in (None, "")]
    if clock is not None:
        kept.sort(key=lambda row: _moment(row.get(clock)))
    rows = Rows([str(row["text"]) for row in kept], [str(row["label"]) for row in kept])
    return DataSet(name=file.stem, splits={"all": rows}, timed=True)


def _imported(file: Path, kind: str) -> Iterator[dict[str, Any]]:
    for row in imports.rows(file, kind, {}):
        if row.error is not None:
            raise BadData(f"{file}:{row.where}: {row.error}")
        yield row.event


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise BadData(f"{file}:{number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise BadData(f"{file}:{number}: not a JSON object", hint='one {"text": …, "label": …} a line')
                yield row


def _moment(value: Any) -> tuple[float, str]:
    """Return a key that sorts numbers as numbers and ISO times as text."""
    try:
        return float(value), ""
    except (TypeError, ValueError):
        return 0.0, str(value)
