"""Upper: the tuned copy of an encoder's upper blocks, with a direction per label: one more expert of a head.

``e = norm(pool(blocks(h)))`` of the token states h that the frozen lower blocks leave, and over the labels that it was tuned on
``p = softmax(scale e.d_label)``: a cosine classifier (Gidaris and Komodakis, 2018). It is a part of the `Adapter`, so it is
promoted, rolled back, demoted and retired with it. Of what it was not tuned on it has nothing to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

UNKNOWN = -1e4  # the score of a label of which nothing is known


@dataclass(frozen=True, eq=False, kw_only=True)
class Upper:
    """Blocks from `cut` on as they were tuned, at 16 bits, and a direction for each label that they were tuned on."""

    encoder: str  # the digest of the encoder whose lower blocks they read
    cut: int  # frozen blocks below them
    method: str
    blocks: Mapping[str, Tensor]  # float16, by name: "0.attention.self.query.weight"
    directions: Tensor  # float16 [L, width]
    labels: Sequence[str]
    scale: float

    @cached_property
    def digest(self) -> str:
        """What vectors that they gave are known by."""
        found = hashlib.blake2b(f"{self.encoder} {self.cut}".encode(), digest_size=16)
        for name, tensor in sorted(self.blocks.items()):
            found.update(name.encode() + tensor.numpy().tobytes())
        return found.hexdigest()

    def same(self, other: Upper | None) -> bool:
        """Say whether both give the same answers."""
        return other is not None and (self is other or (self.digest == other.digest and list(self.labels) == list(other.labels)
                                                        and torch.equal(self.directions, other.directions)
                                                        and self.scale == other.scale))

    def scores(self, tuned: Tensor) -> Tensor:
        """Return the scores [n, L] of tuned vectors [n, width]."""
        return self.scale * tuned.float() @ normalize(self.directions.float(), dim=1).T
