"""Images; the label is what a person said is to be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd

SAMPLE = ("iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAA"
          "AADElEQVR42mNgoA4AAABIAAEQRe/SAAAAAElFTkSuQmCC")  # eight black pixels each way


class Vision(adaptd.Domain):
    """One label per image: `{"image": {"$base64": …}}`, or `{"image": {"$path": …}}` below a folder of the configuration."""

    name = "vision"
    reads = "image"
    samples = ({"image": {"$base64": SAMPLE}, "label": "nothing"},)

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the image, if it can be read whole."""
        return adaptd.Example(image=adaptd.picture(payload))


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Vision]
