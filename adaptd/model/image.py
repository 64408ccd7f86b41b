"""Images: an encoder from any transformers model of images (ViT, DINOv2, CLIP's and SigLIP's, ConvNeXt, timm's)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from adaptd import media
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Encoder, Kind
from adaptd.model.pretrained import Pretrained
from adaptd.records import Example

BATCH = 16  # images that go through the model together
LEAST = 512  # pixels of a side that a JPEG keeps while it is decoded


@dataclass
class Image(Pretrained):
    """An encoder of images."""

    name: ClassVar[str] = "image"
    reads: ClassVar[Kind] = "image"
    pooling: Literal["mean", "class"] = "mean"  # over all places, or the first token, where a model has one for the class

    def load(self) -> None:
        """Load the weights, settle size and digest."""
        self._processor = self._open("AutoImageProcessor")
        self._close(self._inputs([media.probe("image")]), {"pooling": self.pooling})

    def _part(self, model: Any) -> Any:
        return getattr(model, "vision_model", model)  # of a model of images and texts

    def encode(self, examples: Sequence[Example]) -> tuple[Tensor, Sequence[bool]]:
        """Return float16 vectors [n, dim] on the CPU; no image is ever truncated."""
        batches = [examples[start:start + BATCH] for start in range(0, len(examples), BATCH)]
        parts = [self._joined([self._pooled(state) for state in self._chosen(batch)]) for batch in batches]
        return torch.cat(parts) if parts else torch.empty(0, self.dim, dtype=torch.float16), [False] * len(examples)

    def _chosen(self, batch: Sequence[Example]) -> list[Tensor]:
        states = self._states(self._inputs(batch))
        return [states[layer] for layer in self.layers]

    def _inputs(self, batch: Sequence[Example]) -> dict[str, Tensor]:
        images = [media.image(example.image or b"", least=LEAST) for example in batch]
        return {"pixel_values": self._processor(images=images, return_tensors="pt")["pixel_values"]}

    def _pooled(self, state: Tensor) -> Tensor:
        if state.ndim == 4:
            return state.float().mean(dim=(2, 3))
        return state[:, 0] if self.pooling == "class" else state.float().mean(dim=1)


@hookimpl
def register_encoders() -> Iterable[type[Encoder]]:
    """Offer the encoder of images."""
    return [Image]
