"""Training: a job's folder and its child process, the same for an adaptation and for one that is made again.

What a candidate's file is made of, and nothing else: the rows of its lineage at a seq, which of them were new, the
adapter that it began from, and `Recipe`. All of it stands in the store: rows and vectors in the tables, the rest in
the version's own metrics (`trained`). So equal inputs give equal bytes on a CPU, whatever process asks, whatever was
restarted, rolled back or compacted in between.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import process
from adaptd.model import files
from adaptd.model.attention import Adapter, Ints
from adaptd.model.evicted import Fetch
from adaptd.model.network import Head
from adaptd.registry import publish

BEYOND = 50_000  # evicted rows that a candidate is judged with: what bounds the judge's memory
GIVEN = ("vectors", "targets", "fresh")  # of the rows: what the trainer sees; held-out rows it never does


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that a candidate depends on; stored with it."""

    strategy: str
    options: Mapping[str, Any]
    seed: int
    device: str
    threads: int

    def facts(self) -> dict[str, Any]:
        """Return it for a version's metrics."""
        return asdict(self)


@dataclass(frozen=True)
class Away:
    """The rows of a job that memory has evicted; their vectors are read where nobody waits for it."""

    places: Ints
    events: Ints
    fetch: Fetch

    def read_into(self, vectors: Tensor) -> None:
        """Read their vectors to their places."""
        for start in range(0, len(self.places), 1024):
            events = self.events[start : start + 1024].tolist()
            found = self.fetch(events)
            vectors[torch.from_numpy(self.places[start : start + 1024])] = torch.stack([found[event] for event in events])


def rows(head: Head, after: int) -> tuple[dict[str, Tensor], Away]:
    """Copy a head's alive rows in the order of their birth; those born after a seq are new. Some vectors are to be read."""
    found, kept = head.bounded.columns(BEYOND)
    groups = {content: place for place, content in enumerate(dict.fromkeys(found["content"].tolist()))}
    vectors = torch.zeros(len(found), head.options.dim, dtype=torch.float16)
    slots = [head.memory.slot_of[row] for row in found["id"][kept].tolist()]
    vectors[torch.from_numpy(kept)] = head.memory.vectors[slots]
    tensors = {
        "vectors": vectors,
        "targets": torch.from_numpy(found["target"].astype(np.int64)),
        "holdout": torch.from_numpy(found["holdout"].astype(np.uint8)),
        "retrievable": torch.from_numpy(kept.astype(np.uint8)),
        "order": torch.from_numpy(found["order"].copy()),
        "fresh": torch.from_numpy((found["born"] > after).astype(np.uint8)),
        "content": torch.tensor([groups[content] for content in found["content"].tolist()], dtype=torch.int64),
    }
    return tensors, Away(np.flatnonzero(~kept), found["event"][~kept], head.bounded.gone.fetch)


def write(folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], labels: Sequence[str], adapter: Adapter, *,
          plugins: Sequence[str]) -> None:
    """Write a job's folder: `in/` as `adaptd.trainer` reads it, and an empty `out/`."""
    train = (tensors["holdout"] == 0) & ((tensors["retrievable"] == 1) | (tensors["fresh"] == 1))  # memory + experience
    job = {**recipe.facts(), "labels": list(labels), "parent_pid": os.getpid(), "plugins": list(plugins)}
    publish(folder / "in", {
        "job.json": json.dumps(job).encode(),
        "adapter.safetensors": files.dump_adapter(adapter),
        "rows.safetensors": files.dump({name: tensors[name][train] for name in GIVEN}, {"labels": list(labels)}),
    })
    (folder / "out").mkdir()


def start(module: str, folder: Path) -> subprocess.Popen[str]:
    """Start a job's child process; it inherits no setting and no secret."""
    return subprocess.Popen([sys.executable, "-P", "-m", module, str(folder)], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=process.environment())


def failure(stage: str, code: int, said: Sequence[str]) -> str:
    """Say why a child failed: its own error object if it left one, else its last line, else the signal."""
    lines = [line.strip() for line in said if line.strip()]
    for line in reversed(lines):
        try:
            return f"{stage} failed: {json.loads(line)['message']}"
        except (ValueError, KeyError, TypeError):
            continue
    if code < 0:
        return f"{stage} was killed by signal {-code}"
    return f"{stage} failed with exit code {code}: {lines[-1] if lines else 'no message'}"
