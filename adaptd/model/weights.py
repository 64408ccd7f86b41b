"""Weights: what training gave a generator (`adaptd.interfaces.Trainable`): its own tensors, and its own words about them.

They are a part of the `Adapter`, so they are promoted, rolled back and retired with it. What is in them the generator knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from safetensors.torch import save
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Weights:
    """Named tensors, and a safetensors file's metadata."""

    tensors: Mapping[str, Tensor]
    about: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """What they are known by."""
        words = json.dumps(dict(self.about), sort_keys=True).encode()
        return hashlib.blake2b(save(dict(self.tensors)) + words, digest_size=16).hexdigest()

    @property
    def file(self) -> bytes:
        """The safetensors file that a generator takes."""
        return save(dict(self.tensors), dict(self.about))

    def same(self, other: Weights | None) -> bool:
        """Say whether texts are written alike with both."""
        return other is not None and (self is other or self.digest == other.digest)
