"""The model's files: safetensors only, metadata as JSON strings, finite or refused. No pickle on any path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adaptd.errors import CorruptFile
from adaptd.model.attention import Adapter


def dump(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Return a safetensors file with JSON facts in its metadata."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"facts": json.dumps(facts, sort_keys=True)})


def parse(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file of ours.

    Raises
    ------
    CorruptFile
        Not safetensors, no facts, or a value that is not finite.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8:8 + size])["__metadata__"]["facts"])
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{name}: not a file of adaptd: {error}") from None
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptFile(f"{name}: {key} has values that are not finite")
    return tensors, facts


def dump_adapter(adapter: Adapter) -> bytes:
    """Return an adapter as a file: W at 16 bits."""
    tensors = {} if adapter.projection is None else {"projection": adapter.projection.half()}
    tensors["log_value"] = torch.tensor(list(adapter.log_value.values()))
    return dump(tensors, {"scale": adapter.scale, "labels": list(adapter.log_value)})


def parse_adapter(data: bytes, name: str, dim: int | None = None) -> Adapter:
    """Read an adapter and check its shape."""
    tensors, facts = parse(data, name)
    projection = tensors["projection"].float() if "projection" in tensors else None
    if projection is not None and (projection.ndim != 2 or (dim is not None and projection.shape[0] != dim)):
        raise CorruptFile(f"{name}: projection has shape {tuple(projection.shape)}, wanted [{dim}, rank]")
    values = dict(zip(facts["labels"], tensors["log_value"].tolist(), strict=True))
    return Adapter(projection, float(facts["scale"]), values)
