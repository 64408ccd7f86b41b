"""Personalised ranking: items by their text and features, users by what they clicked and how they rated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import adaptd
from adaptd_recommend.taste import Taste

CLICKS, RATINGS = ("skip", "click"), (1, 2, 3, 4, 5)


class Recommend(adaptd.Domain):
    """What a user made of an item: `{"user": …, "item": …, "text": …, "features"?: {"genre": ["Comedy"]}}`.

    A label is `{"rating": 1 to 5}`, `{"click": "click" or "skip"}`, or both.
    """

    name = "recommend"
    heads: Mapping[str, Any] = {"rating": adaptd.Ordinal(classes=RATINGS), "click": adaptd.Ordinal(classes=CLICKS)}
    ranker = Taste
    samples = [
        {"user": "u1", "item": "i1", "text": "Toy Story (1995)", "features": {"genre": ["Animation", "Comedy"]},
         "label": {"rating": 5}},
        {"user": "u2", "item": "i2", "text": "GoldenEye (1995)", "label": {"click": "skip"}}]

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the item's text."""
        for field, needed in (("user", False), ("item", True), ("text", True)):
            value = payload.get(field)
            if (value is None and needed) or (value is not None and (not isinstance(value, str) or not value.strip())):
                raise adaptd.BadPayload(f"{field} must be a string with characters", field=field,
                                        hint='send {"user": "u1", "item": "i1", "text": "Toy Story (1995)"}')
        if not _is_features(payload.get("features", {})):
            raise adaptd.BadPayload("features must be strings, or lists of them, by name", field="features",
                                    hint='send {"features": {"genre": ["Comedy"], "year": "1995"}}')
        return adaptd.Example(text=payload["text"].strip())

    def content(self, payload: Mapping[str, Any]) -> str:
        """Return the item and the user: two users' opinions of an item are two things."""
        return f"{payload.get('user', '')}\n{super().content(payload)}"


def _is_features(value: Any) -> bool:
    def texts(one: Any) -> bool:
        return isinstance(one, str) or (isinstance(one, Sequence) and all(isinstance(part, str) for part in one))

    return isinstance(value, Mapping) and all(isinstance(name, str) and texts(one) for name, one in value.items())


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Recommend]
