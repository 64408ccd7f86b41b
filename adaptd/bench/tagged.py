"""Sets whose words are tagged: named entities, as the domain `entities` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adaptd.bench.sets import DataSet, Rows, Setting

HELD, SEED = 400, 0  # sentences that are drawn for the test where a set has no split
Json = dict[str, Any]


def load(name: str, rows: Sequence[Json], model: str | None) -> DataSet:
    """Read sentences, each a list of tokens (or a string of characters) with their tags (BIO); `model`: another encoder."""
    splits: dict[str, Rows] = {}
    drawn = set(np.random.RandomState(SEED).permutation(len(rows))[:HELD].tolist())
    for place, row in enumerate(rows):
        split = row.get("split", "all")
        into = splits.setdefault(split if split != "all" else "test" if place in drawn else "train", Rows())
        text, spans = sentence(row)
        into.texts.append(text)
        into.labels.append(spans)
    return DataSet(name=name, splits=splits, timed=False, setting=_read_by(model))


def sentence(row: Json) -> tuple[str, list[Json]]:
    """Return a text, tokens with one space between them and characters with none, and its spans.

    >>> sentence({"tokens": ["In", "New", "York"], "tags": ["O", "B-city", "I-city"]})
    ('In New York', [{'start': 3, 'end': 11, 'type': 'city'}])
    >>> sentence({"tokens": "在北京", "tags": "O B-LOC I-LOC"})
    ('在北京', [{'start': 1, 'end': 3, 'type': 'LOC'}])
    """
    tokens, tags, space = row["tokens"], row["tags"], " "
    if isinstance(tokens, str):
        tags, space = tags.split(), ""
    spans: list[Json] = []
    start, before = 0, ""
    for token, tag in zip(tokens, tags, strict=True):
        begins, _, kind = tag.partition("-")
        if begins == "I" and kind == before:
            spans[-1]["end"] = start + len(token)
        elif kind:  # an I that continues nothing begins a span
            spans.append({"start": start, "end": start + len(token), "type": kind})
        start, before = start + len(token) + len(space), kind
    return space.join(tokens), spans


def _read_by(model: str | None) -> Setting:
    def encoder() -> Any:
        from adaptd.model.words import Words

        return Words(model=model) if model else Words()

    options = f'options = {{ model = "{model}" }}' if model else ""
    return Setting(domain="entities", encoder=encoder, config=f"""
[plugins]
allow = ["adaptd-entities"]
[encoders.words]
kind = "words"
{options}
[domains.entities]
encoder = "words"
[domains.entities.learn]
features = 2048
[domains.entities.memory]
per_class = 2000
""")
