"""The peers' vectors: the daemon's own encoder, once per set, kept in the results' folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptd.bench.peers import Inputs
from adaptd.bench.sets import Setting
from adaptd.model.encoder import Transformers
from adaptd.model.numeric import Numeric
from adaptd.records import canonical

TEXTS = Setting()
CHUNK = 512  # texts encoded between two steps of the progress bar


class Encoded:
    """Encodes texts with adaptd's encoder; equal texts under an equal encoder come from the folder."""

    def __init__(self, folder: Path, setting: Setting = TEXTS) -> None:
        self._folder = folder
        self._setting = setting
        self._encoder: Any = None

    def of(self, setting: Setting) -> Encoded:
        """Return the same for sets that are served so."""
        return self if setting is self._setting else Encoded(self._folder, setting)

    @property
    def encoder(self) -> Any:
        """The encoder as `adaptd init` configures it, loaded when it is wanted."""
        if self._encoder is None:
            default = Transformers if self._setting.domain == "text" else Numeric
            self._encoder = (self._setting.encoder or default)()
            self._encoder.load()
        return self._encoder

    def layers(self, texts: Sequence[Any], advance: Callable[[int], None]) -> npt.NDArray[np.float16]:
        """Return all pooled layers, as the daemon stores them."""
        key = hashlib.sha256("\0".join([self.encoder.digest, *map(_written, texts)]).encode("utf-8", "surrogatepass")).hexdigest()
        file = self._folder / f"{key[:16]}.npy"
        if file.is_file():
            kept: npt.NDArray[np.float16] = np.load(file, allow_pickle=False)
            advance(len(texts))
            return kept
        parts = []
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start:start + CHUNK]
            parts.append(self.encoder.encode([self._setting.example(text) for text in chunk])[0].numpy())
            advance(len(chunk))
        made = np.concatenate(parts)
        self._folder.mkdir(parents=True, exist_ok=True)
        np.save(file, made)
        return made

    def inputs(self, texts: Sequence[Any], advance: Callable[[int], None]) -> Inputs:
        """Return what peers read: the last layer alone, of unit length, and the texts."""
        layers = self.layers(texts, advance)
        count = len(getattr(self.encoder, "layers", (0,)))
        last = layers[:, -layers.shape[1] // count:].astype(np.float32) * math.sqrt(count)
        return Inputs(last, texts)


def _written(one: Any) -> str:
    return one if isinstance(one, str) else canonical(one)
