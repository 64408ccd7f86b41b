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

from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.network import Head
from adaptd.registry import publish

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


def rows(head: Head, after: int) -> dict[str, Tensor]:
    """Return a head's alive rows in the order of their birth; those born after a seq are new. They are copies."""
    memory = head.memory
    slots = memory.living()
    groups = {content: place for place, content in enumerate(dict.fromkeys(memory.contents[s] for s in slots))}
    return {
        "vectors": memory.vectors[torch.from_numpy(slots)],
        "targets": torch.from_numpy(memory.targets[slots].astype(np.int64)),
        "holdout": torch.from_numpy(memory.holdout[slots].astype(np.uint8)),
        "order": torch.from_numpy(memory.order[slots]),
        "fresh": torch.from_numpy((memory.born[slots] > after).astype(np.uint8)),
        "content": torch.tensor([groups[memory.contents[s]] for s in slots], dtype=torch.int64),
    }


def write(folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], labels: Sequence[str], adapter: Adapter, *,
          plugins: Sequence[str], time_limit_s: float) -> None:
    """Write a job's folder: `in/` as `adaptd.trainer` reads it, and an empty `out/`."""
    train = tensors["holdout"] == 0
    job = {**recipe.facts(), "labels": list(labels), "parent_pid": os.getpid(), "plugins": list(plugins),
           "time_limit_s": time_limit_s}
    publish(folder / "in", {
        "job.json": json.dumps(job).encode(),
        "adapter.safetensors": files.dump_adapter(adapter),
        "rows.safetensors": files.dump({name: tensors[name][train] for name in GIVEN}, {"labels": list(labels)}),
    })
    (folder / "out").mkdir()


def start(module: str, folder: Path) -> subprocess.Popen[str]:
    """Start a job's child process; it inherits no setting."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ADAPTD_")}
    return subprocess.Popen([sys.executable, "-P", "-m", module, str(folder)], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment)


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
