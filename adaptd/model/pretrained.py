"""Pretrained: what the encoders of images and sounds share, which are transformers models with a processor.

``x' = [norm(pool(h_l)) for l in layers] / sqrt(len(layers))``, rounded to float16, as of texts (`adaptd.model.encoder`); the
last layer is the model's own output.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaptd.errors import CannotStart
from adaptd.model.encoder import pick_device
from adaptd.modelfiles import find, sha256

CONFIGS = ("config.json", "preprocessor_config.json", "processor_config.json")


@dataclass
class Pretrained:
    """A frozen model from a local folder or the hub cache."""

    model: str
    layers: Sequence[int] = ()  # pooled; () = a third, two thirds and all of the depth; of a convolutional network the last
    device: Literal["auto", "cpu", "cuda"] = "auto"
    download: bool = False  # may fetch a hub model
    dim: int = field(init=False, default=0)
    digest: str = field(init=False, default="")

    def _open(self, processor: str) -> Any:
        """Load model and processor (a name of transformers); return the processor.

        Raises
        ------
        MissingExtra
            The model is not on this machine.
        CannotStart
            The folder is not such a model's.
        """
        import transformers
        from transformers.utils import logging as chatter

        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
        self._folder = find(self.model, download=self.download)
        try:
            made = getattr(transformers, processor).from_pretrained(self._folder, trust_remote_code=False)
            model: Any = transformers.AutoModel.from_pretrained(self._folder, use_safetensors=True,
                                                           trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise CannotStart(f"encoder {self.model}: {str(error)[:500]}", field="encoders",
                              hint="the folder needs config.json, preprocessor_config.json and *.safetensors") from None
        self._device = pick_device(self.device)
        self._model = self._part(model).float().eval().requires_grad_(False).to(self._device)  # some are saved in halves
        return made

    def _part(self, model: Any) -> Any:
        """Return the part of a model that is used."""
        return model

    def _close(self, inputs: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Settle layers, size and digest by running the model once."""
        states = self._states(inputs)
        depth = len(states) - 1
        thirds = {depth} if states[-1].ndim == 4 else {math.ceil(depth / 3), math.ceil(2 * depth / 3), depth}
        self.layers = tuple(self.layers) or tuple(sorted(thirds))
        if max(self.layers) > depth or min(self.layers) < 0:
            raise CannotStart(f"encoder {self.model} has the layers 0 to {depth}, not {max(self.layers)}", field="encoders")
        self.dim = sum(states[layer].shape[1 if states[layer].ndim == 4 else -1] for layer in self.layers)
        self.digest = self._digest(self._folder, facts)

    def _digest(self, folder: Path, facts: Mapping[str, Any]) -> str:
        """Digest weights, processor, layers and what else a vector depends on."""
        files = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.suffix == ".safetensors" or p.name in CONFIGS}
        parts = {"files": files, "layers": list(self.layers), **facts}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def _states(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Run a batch; return the states of all layers, [b, tokens, d] or [b, d, height, width]."""
        with torch.autocast(self._device, dtype=torch.float16, enabled=self._device == "cuda"):
            out = self._model(**{name: one.to(self._device) for name, one in inputs.items()}, output_hidden_states=True)
        return [*out.hidden_states[:-1], out.last_hidden_state]

    def _joined(self, pooled: Sequence[Tensor]) -> Tensor:
        """Return the layers' pooled vectors [b, d] as one, float16 on the CPU."""
        unit = [normalize(one.float(), dim=-1) for one in pooled]
        return (torch.cat(unit, dim=1) / math.sqrt(len(unit))).half().cpu()
