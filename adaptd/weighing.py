"""Weighing: do weak rows help? The champion on the held-out rows, and the same with the weak rows learned. A child process.

``python -m adaptd.weighing FOLDER`` reads what a trial of weak labels left: the rows as a training job's evaluation has
them, the weak rows, the champion's adapter. Both answers are leave-one-out (`adaptd.evaluate`); the adapter, trust and
temperature are the champion's. The weak rows are the newest of what is remembered, as they are where they are admitted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptd.evaluate import answers, held_out, nearer_ones, ridge_scores
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.closed_form import JUDGED, JUDGED_FROM, RandomFeatures, strength
from adaptd.process import be_a_quiet_child
from adaptd.trainer import exit_code, write


def weigh(tensors: Mapping[str, Tensor], weak: Mapping[str, Tensor], facts: Mapping[str, Any],
          adapter: Adapter) -> dict[str, Tensor]:
    """Return the class that each held-out row gets without (`champion`) and with (`candidate`) weak rows; and the rows.

    `weak` has `vectors` [n, dim] and `targets` [n], classes of ``facts["labels"]``; none has the content of a held-out row.
    """
    alone, both = dict(tensors), _both(tensors, weak)
    held = held_out(alone)
    more = {**facts, "learned": facts["learned"] + len(weak["targets"]), "strength": _strength(both, facts)}
    found = {"rows": held}
    for name, rows, known in (("champion", alone, dict(facts)), ("candidate", both, more)):
        found[name] = answers(rows, known, adapter, held, ridge_scores(rows, known, held))
    return found | nearer_ones(found, alone, dict(facts))


def _both(tensors: Mapping[str, Tensor], weak: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all rows, the weak ones behind the others."""
    n = len(weak["targets"])

    def behind(name: str) -> Tensor:
        return torch.arange(1, n + 1) + (int(tensors[name].max()) if len(tensors[name]) else 0)

    new = {"vectors": weak["vectors"], "targets": weak["targets"], "holdout": torch.zeros(n, dtype=torch.uint8),
           "retrievable": torch.ones(n, dtype=torch.uint8), "order": behind("order"), "content": behind("content")}
    return {**tensors, **{name: torch.cat([tensors[name], rows.to(tensors[name].dtype)]) for name, rows in new.items()}}


def _strength(rows: Mapping[str, Tensor], facts: Mapping[str, Any]) -> float:
    """Return the ridge's penalty as it is chosen where all are learned: by rows drawn from the oldest 64, 128, 256 … of them."""
    n = len(rows["targets"])
    if n < JUDGED_FROM:
        return float(facts["strength"])
    drawn = torch.randperm(1 << (n.bit_length() - 1), generator=torch.Generator().manual_seed(facts["seed"]))[:JUDGED]
    features = RandomFeatures(rows["vectors"].shape[1], facts["features"], facts["seed"])
    return strength(features(rows["vectors"][drawn]), rows["targets"][drawn])


def main(folder: Path) -> None:
    """Weigh one job's folder; write `out/scores.safetensors`."""
    job = json.loads((folder / "in" / "job.json").read_text())
    be_a_quiet_child(job["parent_pid"])
    torch.set_num_threads(job["threads"])
    tensors, facts = files.parse((folder / "in" / "judged.safetensors").read_bytes(), "rows")
    weak, _ = files.parse((folder / "in" / "weak.safetensors").read_bytes(), "weak rows")
    adapter = files.parse_adapter((folder / "in" / "adapter.safetensors").read_bytes(), "champion", tensors["vectors"].shape[1])
    write(folder / "out" / "scores.safetensors", files.dump(weigh(tensors, weak, facts, adapter), {}))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]))))
