"""What the demonstration plays: diagnoses from an installed package, or the user's own JSONL, cut into days.

Nothing of the data is kept in adaptd. Three parts, by text disjoint: the stream, the texts that are only ever asked
(for the accuracy over time), and the texts that a bad source labels wrongly.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptd.errors import BadPayload, MissingExtra

SEED = 7
DAYS = 14
BLOCKS = 4  # of a day: what is asked together, and labelled together later
DAY_EVENTS = 120
FIRST_TOPICS = 3  # one more joins each day
ASKED_PER_TOPIC = 30
WRONG = 360
LEAST_ROWS, LEAST_LABELS, MOST_ROWS = 60, 3, 3000
CHAPTERS = {  # of ICD-10-CM, in the order they join
    "9": "heart", "11": "digestion", "5": "mind", "2": "tumours", "19": "injuries", "15": "pregnancy", "7": "eye",
    "10": "lungs", "12": "skin", "6": "nerves", "1": "infections", "14": "kidneys"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A text and the topic it is about."""

    text: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that is played, in its order."""

    source: str
    days: Sequence[Sequence[Row]]
    asked: Sequence[Row]
    wrong: Sequence[Row]  # with their true labels; the bad source shifts them

    def blocks(self, day: int) -> Iterable[Sequence[Row]]:
        """Cut a day into its blocks.

        >>> day = [Row(text=str(i), label="a") for i in range(6)]
        >>> [len(b) for b in Material(source="", days=[day], asked=[], wrong=[]).blocks(0)]
        [1, 2, 1, 2]
        """
        rows = self.days[day]
        cuts = [len(rows) * i // BLOCKS for i in range(BLOCKS + 1)]
        return [rows[a:b] for a, b in pairwise(cuts) if a < b]

    def rows(self) -> list[Row]:
        """Return all rows of the three parts."""
        return [*(row for day in self.days for row in day), *self.asked, *self.wrong]


def diagnoses(seed: int = SEED) -> Material:
    """Read official diagnoses and their synonyms from `simple-icd-10-cm`; the topic is the chapter.

    Raises
    ------
    MissingExtra
        The package is not installed.
    """
    try:
        import simple_icd_10_cm as icd  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtra("the demonstration's data set is not installed",
                           hint="pip install 'adaptd[demo]', or play your own: adaptd demo --data FILE.jsonl") from None
    chooser = random.Random(seed)
    pools = {name: sorted(texts) for name, texts in _by_topic(icd).items()}
    for pool in pools.values():
        chooser.shuffle(pool)
    asked = [Row(text=pool.pop(), label=name) for name, pool in pools.items() for _ in range(ASKED_PER_TOPIC)]
    wrong = [Row(text=pool.pop(), label=name) for name, pool in pools.items() for _ in range(WRONG // len(pools))]
    chooser.shuffle(wrong)
    source = f"ICD-10-CM diagnoses by chapter, from the package simple-icd-10-cm {version('simple-icd-10-cm')}"
    return Material(source=source, days=_arrivals(pools, chooser), asked=asked, wrong=wrong)


def _by_topic(icd: Any) -> dict[str, set[str]]:
    """Collect what belongs to one chapter: titles of up to four characters of code, and synonyms at any depth.

    Longer codes repeat a title for left, right and each encounter: near-duplicates would flatter every model.
    """
    topics: dict[str, set[str]] = {name: set() for name in CHAPTERS.values()}
    owners: Counter[str] = Counter()
    for code in icd.get_all_codes(with_dots=False):
        if not icd.is_category_or_subcategory(code) or (name := CHAPTERS.get(icd.get_ancestors(code)[-1])) is None:
            continue
        texts = {*([icd.get_description(code)] if len(code) <= 4 else []), *icd.get_inclusion_term(code)}
        owners.update(texts - topics[name])
        topics[name] |= texts
    return {name: {text for text in texts if owners[text] == 1} for name, texts in topics.items()}


def _arrivals(pools: dict[str, list[str]], chooser: random.Random) -> list[list[Row]]:
    """Let topics join one by one; those that came earlier go on, the newest counts twice."""
    names, days = list(pools), []
    for day in range(DAYS):
        present = names[:FIRST_TOPICS + day]
        joined = FIRST_TOPICS <= len(present) - 1 and len(present) == FIRST_TOPICS + day
        weights = [2 if joined and name == present[-1] else 1 for name in present]
        chosen = chooser.choices(present, weights, k=DAY_EVENTS)
        days.append([Row(text=pools[name].pop(), label=name) for name in chosen])
    return days


def own(file: Path) -> Material:
    """Read the user's JSONL: `text` and `label` a line, in the order of time.

    Raises
    ------
    BadPayload
        A line is not such an object, or there are too few rows or labels.
    """
    lines = enumerate(file.read_bytes().splitlines(), 1)
    rows = _distinct(_line(file, number, raw) for number, raw in lines if raw.strip())
    labels = len({row.label for row in rows})
    if len(rows) < LEAST_ROWS or labels < LEAST_LABELS:
        raise BadPayload(f"{file}: {len(rows)} different texts with {labels} labels",
                         field="label" if labels < LEAST_LABELS else "text",
                         hint=f"at least {LEAST_ROWS} texts and {LEAST_LABELS} labels are needed to show anything")
    step = max(1.0, len(rows) / MOST_ROWS)
    rows = [rows[int(i * step)] for i in range(int(len(rows) / step))]
    return _parted(f"{file.name}, {len(rows)} rows", rows)


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Keep the first of every text, so that no asked text was ever labelled."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.text, row)
    return list(first.values())


def _line(file: Path, number: int, raw: bytes) -> Row:
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise BadPayload(f"{file}:{number}: not JSON: {error}", hint='a line is {"text": "…", "label": "…"}') from None
    for name in ("text", "label"):
        value = document.get(name) if isinstance(document, dict) else None
        if not isinstance(value, str) or not value.strip():
            raise BadPayload(f"{file}:{number}: {name} is missing or not a text", field=name,
                             hint='a line is {"text": "…", "label": "…"}')
    return Row(text=document["text"], label=document["label"])


def _parted(source: str, rows: Sequence[Row]) -> Material:
    """Of every label ask the 4th, 8th … text and spoil the 6th, 14th …; the rest is the stream."""
    seen: Counter[str] = Counter()
    stream: list[Row] = []
    asked: list[Row] = []
    wrong: list[Row] = []
    for row in rows:
        seen[row.label] += 1
        part = asked if seen[row.label] % 4 == 0 else wrong if seen[row.label] % 8 == 6 else stream
        part.append(row)
    if not asked or not wrong:
        raise BadPayload("no label has six different texts", field="label", hint="give a file with more rows per label")
    cuts = [len(stream) * day // DAYS for day in range(DAYS + 1)]
    every = -(-len(asked) // (ASKED_PER_TOPIC * len(CHAPTERS)))
    days = [stream[a:b] for a, b in pairwise(cuts)]
    return Material(source=source, days=days, asked=asked[::every], wrong=wrong[:WRONG])
