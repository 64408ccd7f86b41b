"""The generic domain of numbers: every field of the payload is a feature, labels are learned as they appear."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adaptd.errors import BadPayload
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Domain, Kind
from adaptd.records import Example

FEATURES = 2048  # of an event
CATEGORY = 256  # characters


@dataclass
class Numeric(Domain):
    """One label per set of numbers and categories: `{"temperature": 21.5, "site": "north", "label": …}`.

    A list is read in its order, an object by its names. A string that is a number is one (as a CSV's cells are); any other
    is a category. null is a gap.
    """

    name: ClassVar[str] = "numeric"
    reads: ClassVar[Kind] = "features"
    samples: ClassVar[Sequence[Mapping[str, Any]]] = ({"temperature": 21.5, "site": "north", "label": "open"},
                                                      {"sensor": [0.1, None, 3]})
    fields: Sequence[str] = ()  # the payload's fields that are read; without any, all

    def example(self, payload: Mapping[str, Any]) -> Example:
        """Read the fields."""
        chosen = {name: payload.get(name) for name in self.fields} if self.fields else payload
        features = {name: value for name, value in _flat(chosen, "") if value is not None}
        if not features:
            raise BadPayload("an event needs a number or a category", field=next(iter(self.fields), None),
                             hint='send {"temperature": 21.5, "site": "north"}')
        if len(features) > FEATURES:
            raise BadPayload(f"{len(features)} features; the limit is {FEATURES}", hint="choose with the option fields")
        return Example(features=features)


def _flat(value: Any, name: str) -> Iterator[tuple[str, float | str | None]]:
    """Yield the features of a value, each under its full name."""
    if isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _flat(one, f"{name}.{inner}" if name else inner)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _flat(one, f"{name}[{place}]")
    else:
        yield name, _feature(value, name)


def _feature(value: Any, name: str) -> float | str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        raise BadPayload(f"{name[:200]} is neither a number nor a category", field=name[:200],
                         hint="bytes are for an image or sound domain; name what is read with the option fields")
    text = value.strip()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number
    if len(text) > CATEGORY:
        raise BadPayload(f"a category of {len(text)} characters; the limit is {CATEGORY}", field=name[:200],
                         hint="long text is for a text domain; name what is read with the option fields")
    return text


@hookimpl
def register_domains() -> Iterable[type[Domain]]:
    """Offer the domain of numbers."""
    return [Numeric]
