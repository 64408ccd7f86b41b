"""Spoken words; the label is the word that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd

SAMPLE = ("UklGRlQAAABXQVZFZm10IBAAAAABAAEAoA8AAKAPAAABAAgAZGF0YTAAAACAxu"
          "TGgDkcOX/G5MaAORw5f8bkxoA5HDl/xuTGgDkcOX/G5MaAORw5f8bkxoA5HDk=")  # 48 samples of a tone


class Speech(adaptd.Domain):
    """One word per sound: `{"audio": {"$base64": …}}`, or `{"audio": {"$path": …}}` below a folder of the configuration."""

    name = "speech"
    reads = "audio"
    heads = {"word": adaptd.Classify()}
    samples = ({"audio": {"$base64": SAMPLE}, "label": "beep"},)

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the sound, if it can be read and is not silent."""
        return adaptd.Example(audio=adaptd.sound(payload))


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Speech]
