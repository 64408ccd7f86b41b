"""A folder that adaptive-classifier saved: the examples that it kept, as events.

Its prototypes and its head (`model.safetensors`) are of another encoder's space and are not taken: the texts are learned
anew. It keeps a few representative examples a class; how many there were stands in its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptd.errors import BadFile
from adaptd.imports import Row

EXAMPLES, CONFIG = "examples.json", "config.json"
NOT_ONE = "a folder that adaptive-classifier saved has config.json and examples.json"


def rows(file: Path, kind: str, fields: Mapping[str, str]) -> Iterator[Row]:
    """Read a saved folder."""
    examples = _object(file / EXAMPLES)
    if "label_to_id" not in _object(file / CONFIG):
        raise BadFile(f"{file / CONFIG}: no `label_to_id`", hint=NOT_ONE)
    for label, given in examples.items():
        for place, one in enumerate(given if isinstance(given, list) else [None], 1):
            text = one.get("text") if isinstance(one, dict) else None
            where = f"{label}, example {place}"
            good = isinstance(text, str)
            yield Row(where, {"text": text, "label": label}) if good else Row(where, error="no text in it (drop it)")


def trained(folder: Path) -> int:
    """Return how many examples the classifier was trained on, as its configuration counts them; 0 when it does not."""
    counts = _object(folder / CONFIG).get("training_history")
    return sum(one for one in counts.values() if isinstance(one, int)) if isinstance(counts, dict) else 0


def _object(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadFile(f"{file} is not there", hint=NOT_ONE) from None
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{file}: not JSON: {error}", hint="save the classifier again") from None
    if not isinstance(found, dict):
        raise BadFile(f"{file}: no JSON object", hint=NOT_ONE)
    return found
