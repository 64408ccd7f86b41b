"""A version as a folder of transformers: weights, tokenizer, and the code that answers (`modeling_adaptd`)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptd.export import modeling_adaptd
from adaptd.export.modeling_adaptd import AdaptdConfig, AdaptdForSequenceClassification
from adaptd.model.encoder import Transformers
from adaptd.model.network import Head
from adaptd.model.snapshot import HeadSnapshot

CODE = Path(modeling_adaptd.__file__)


def build(head: Head, encoder: Transformers, made_of: Mapping[str, Any]) -> AdaptdForSequenceClassification:
    """Return the model that answers as a solved head does."""
    frozen = head.snapshot()
    tensors = _tensors(head, frozen)
    sizes = {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in tensors.items()}
    body, _ = encoder.parts()
    config = AdaptdConfig(
        encoder=body.config.to_dict(), layers=encoder.layers, sizes=sizes, scalars=_scalars(frozen),
        made_of={**made_of, "prefix": encoder.prefix, "max_length": encoder.max_length},
        id2label=dict(enumerate(head.labels)), label2id={label: place for place, label in enumerate(head.labels)},
        auto_map={"AutoConfig": f"{CODE.stem}.{AdaptdConfig.__name__}",
                  "AutoModelForSequenceClassification": f"{CODE.stem}.{AdaptdForSequenceClassification.__name__}"})
    model = AdaptdForSequenceClassification(config)
    model.encoder = body.cpu()
    for name, tensor in tensors.items():
        getattr(model, name).copy_(tensor)
    model.eval()
    return model


def write(model: AdaptdForSequenceClassification, encoder: Transformers, folder: Path) -> None:
    """Write the folder that `AutoModelForSequenceClassification.from_pretrained(…, trust_remote_code=True)` reads."""
    model.save_pretrained(folder)
    _, tokenizer = encoder.parts()
    tokenizer.save_pretrained(folder)
    shutil.copy(CODE, folder / CODE.name)


def _tensors(head: Head, frozen: HeadSnapshot) -> dict[str, Tensor]:
    """Return what a head has learned; rows that cannot be retrieved are left out."""
    slots = torch.from_numpy(head.memory.retrievable).nonzero()[:, 0]
    young, projection = frozen.young, frozen.adapter.projection
    return {
        "ridge": frozen.ridge, "signs": head.features.signs, "left": head.features.left, "right": head.features.right,
        "keys": frozen.adapter.keys(head.memory.vectors[slots]), "targets": torch.from_numpy(frozen.targets)[slots].long(),
        "order": torch.from_numpy(frozen.order)[slots], "log_value": torch.from_numpy(frozen.log_value),
        "known": torch.from_numpy(frozen.known), "rates": torch.from_numpy(frozen.rates), "trust": torch.from_numpy(frozen.trust),
        "young": torch.zeros(len(head.labels), dtype=torch.bool) if young is None else torch.from_numpy(young.young),
        "centre": frozen.centres.centre, "directions": frozen.centres.directions,
        "projection": torch.zeros(0, 0) if projection is None else projection}


def _scalars(frozen: HeadSnapshot) -> dict[str, Any]:
    return {"neighbours": frozen.neighbours, "scale": frozen.adapter.scale, "temperature": frozen.temperature,
            "rule": frozen.rule, "young": frozen.young is not None, "others": bool(frozen.young and frozen.young.others),
            "solved": frozen.ridge.shape[1] > 0, "projected": frozen.adapter.projection is not None,
            "limits": frozen.limits.facts()}
