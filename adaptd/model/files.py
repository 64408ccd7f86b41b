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
from adaptd.model.upper import Upper
from adaptd.model.weights import Weights

BLOCK, WEIGHT = "upper.", "weights."  # how the names of tuned blocks begin in an adapter's file; those of a generator's weights


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
        tensors, about = _read(data, name)
        return tensors, json.loads(about["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{name}: not a file of adaptd: {error}") from None


def parse_weights(data: bytes, name: str) -> Weights:
    """Read a safetensors file that a generator's training gave.

    Raises
    ------
    CorruptFile
        Not safetensors, empty, or a value that is not finite.
    """
    try:
        tensors, about = _read(data, name)
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise CorruptFile(f"{name}: not a safetensors file: {error}") from None
    if not tensors:
        raise CorruptFile(f"{name}: there are no weights in it")
    return Weights(tensors=tensors, about=about)


def _read(data: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file; all must be finite."""
    size = int.from_bytes(data[:8], "little")
    about = json.loads(data[8:8 + size]).get("__metadata__", {})
    tensors = load(data)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptFile(f"{name}: {key} has values that are not finite")
    return tensors, about


def dump_adapter(adapter: Adapter) -> bytes:
    """Return an adapter as a file: W at 16 bits, and beside it tuned blocks, or a generator's weights, where there are some."""
    tensors = {} if adapter.projection is None else {"projection": adapter.projection.half()}
    tensors["log_value"] = torch.tensor(list(adapter.log_value.values()))
    facts: dict[str, Any] = {"scale": adapter.scale, "labels": list(adapter.log_value)}
    if (upper := adapter.upper) is not None:
        tensors |= {BLOCK + name: tensor for name, tensor in upper.blocks.items()}
        tensors["directions"] = upper.directions
        facts["upper"] = {"encoder": upper.encoder, "cut": upper.cut, "method": upper.method, "labels": list(upper.labels),
                          "scale": upper.scale}
    if (weights := adapter.weights) is not None:
        tensors |= {WEIGHT + name: tensor for name, tensor in weights.tensors.items()}
        facts["weights"] = dict(weights.about)
    return dump(tensors, facts)


def parse_adapter(data: bytes, name: str, dim: int | None = None) -> Adapter:
    """Read an adapter and check its shape."""
    tensors, facts = parse(data, name)
    projection = tensors["projection"].float() if "projection" in tensors else None
    if projection is not None and (projection.ndim != 2 or (dim is not None and projection.shape[0] != dim)):
        raise CorruptFile(f"{name}: projection has shape {tuple(projection.shape)}, wanted [{dim}, rank]")
    values = dict(zip(facts["labels"], tensors["log_value"].tolist(), strict=True))
    upper = _upper(tensors, facts["upper"], name) if "upper" in facts else None
    weights = Weights(tensors={key.removeprefix(WEIGHT): tensor for key, tensor in tensors.items() if key.startswith(WEIGHT)},
                      about=facts["weights"]) if "weights" in facts else None
    return Adapter(projection, float(facts["scale"]), values, upper, weights)


def _upper(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], name: str) -> Upper:
    blocks = {key.removeprefix(BLOCK): tensor for key, tensor in tensors.items() if key.startswith(BLOCK)}
    directions = tensors.get("directions")
    if not blocks or directions is None or directions.ndim != 2 or len(directions) != len(facts["labels"]):
        raise CorruptFile(f"{name}: its tuned blocks do not fit together")
    return Upper(encoder=facts["encoder"], cut=int(facts["cut"]), method=facts["method"], blocks=blocks, directions=directions,
                 labels=tuple(facts["labels"]), scale=float(facts["scale"]))
