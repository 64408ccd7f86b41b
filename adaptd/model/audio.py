"""Sounds: an encoder from any transformers model of sounds (Whisper's encoder, wav2vec 2.0, HuBERT, WavLM …).

Whisper reads thirty seconds whatever there is. For short clips its table of positions is cut to `seconds`, which is as many
times cheaper; the frames behind a clip's end are not pooled. Other models read each clip by itself, unpadded: what came with
it does not change its vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adaptd import media
from adaptd.errors import CannotStart
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Encoder, Kind
from adaptd.model.pretrained import Pretrained
from adaptd.records import Example

BATCH = 16  # clips that go through the model together
LEAST_S = 0.1  # a shorter clip is filled up with silence: models have a shortest input
STRIDE = 2  # frames of Whisper's input that make a state
Floats = npt.NDArray[np.float32]


@dataclass
class Audio(Pretrained):
    """An encoder of sounds."""

    name: ClassVar[str] = "audio"
    reads: ClassVar[Kind] = "audio"
    seconds: float = 5.0  # that are heard of a sound; of a longer one the beginning, and it is flagged as truncated

    def load(self) -> None:
        """Load the weights, settle size and digest.

        Raises
        ------
        CannotStart
            The model hears less than `seconds`.
        """
        self._processor = self._open("AutoFeatureExtractor")
        self._rate = int(self._processor.sampling_rate)
        self._samples = int(self.seconds * self._rate)
        if fixed := hasattr(self._model.config, "max_source_positions"):
            self._cut()
        self._fixed = fixed
        silence = np.zeros(int(LEAST_S * self._rate), dtype=np.float32)
        self._close(self._inputs([silence])[0], {"pooling": "mean", "seconds": self.seconds})

    def _part(self, model: Any) -> Any:
        return model.get_encoder() if model.config.is_encoder_decoder else model

    def _cut(self) -> None:
        """Let the model read no more than `seconds`."""
        hop, config, table = self._processor.hop_length, self._model.config, self._model.embed_positions.weight
        positions = math.ceil(self._samples / (hop * STRIDE))
        if positions > config.max_source_positions:
            raise CannotStart(f"encoder {self.model} hears {config.max_source_positions * hop * STRIDE / self._rate:g} s, not "
                              f"{self.seconds:g}", field="encoders", hint="lower the option seconds")
        config.max_source_positions = positions
        self._model.embed_positions = torch.nn.Embedding(positions, table.shape[1], _weight=table[:positions].clone())
        self._model.requires_grad_(False)
        self._samples = positions * hop * STRIDE

    def encode(self, examples: Sequence[Example]) -> tuple[Tensor, Sequence[bool]]:
        """Return float16 vectors [n, dim] on the CPU and, per example, whether it was truncated."""
        heard = [media.wave(example.audio or b"", rate=self._rate, seconds=self.seconds) for example in examples]
        size = BATCH if self._fixed else 1
        parts = [self._batch([samples for samples, _ in heard[start:start + size]]) for start in range(0, len(heard), size)]
        return torch.cat(parts) if parts else torch.empty(0, self.dim, dtype=torch.float16), [more for _, more in heard]

    def _batch(self, clips: Sequence[Floats]) -> Tensor:
        inputs, mask = self._inputs(clips)
        states = self._states(inputs)
        return self._joined([self._pooled(states[layer].float().cpu(), mask) for layer in self.layers])

    def _inputs(self, clips: Sequence[Floats]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return what the model reads, and which of its states [b, frames] are of the clips, where not all are."""
        name, least = self._processor.model_input_names[0], int(LEAST_S * self._rate)
        filled = [np.pad(clip, (0, max(0, least - len(clip)))) for clip in clips]
        if not self._fixed:
            return {name: self._processor(filled, sampling_rate=self._rate, return_tensors="pt")[name]}, None
        read = self._processor(filled, sampling_rate=self._rate, return_tensors="pt", padding="max_length", truncation=True,
                               max_length=self._samples, return_attention_mask=True)
        return {name: read[name]}, read["attention_mask"][:, ::STRIDE]

    @staticmethod
    def _pooled(state: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return state.mean(dim=1)
        weights = mask.unsqueeze(-1).float()
        return (state * weights).sum(1) / weights.sum(1)


@hookimpl
def register_encoders() -> Iterable[type[Encoder]]:
    """Offer the encoder of sounds."""
    return [Audio]
