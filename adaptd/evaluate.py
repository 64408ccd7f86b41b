"""Evaluate: candidate and champion on the same held-out rows, each left out exactly. A child process.

``python -m adaptd.evaluate FOLDER`` reads what a training job left: the rows, the champion's adapter, the
candidate's. It is the mechanical check as well: the candidate's file is loaded from the disk, must be finite and of
the right shape, and must answer. Held-out rows are in sums and memory like all others; here each is scored as if
neither it nor another row of the same content had been learned (`closed_form.leave_out`, masked neighbours, class
means without them). Eviction does not touch the judging: an evicted held-out row is scored like the others, and evicted
rows are in sums and means here as they are in the daemon; only attention does not find them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd.errors import AdaptdError, CorruptFile
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.closed_form import RandomFeatures, leave_out, weights
from adaptd.model.decoder import pool_opinions
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions, HeadSnapshot
from adaptd.process import be_a_quiet_child

SCORED = 20_000  # held-out rows at most, the newest


def head_of(tensors: dict[str, Tensor], facts: dict[str, Any], adapter: Adapter) -> Head:
    """Build a head with these rows; its ridge is not solved (every held-out row has its own)."""
    options = HeadOptions(dim=tensors["vectors"].shape[1], features=facts["features"], neighbours=facts["neighbours"],
                          seed=facts["seed"])
    head = Head(options, RandomFeatures(options.dim, options.features, options.seed), adapter=adapter)
    head.set_labels(facts["labels"])
    n = len(tensors["targets"])
    head.restore(NewRows(ids=range(n), events=range(n), born=range(n), targets=tensors["targets"].tolist(),
                         sources=[""] * n, contents=[b""] * n, holdout=tensors["holdout"].bool().tolist(),
                         vectors=tensors["vectors"]), None, None)
    head.memory.order[:n] = tensors["order"].numpy()
    head.memory.evicted[:n] = tensors["retrievable"].numpy() == 0
    head.learned = facts["learned"]
    head.fold.load(tensors["trust"], tensors["trust_at"], facts)
    head.fold.expect(adapter)
    return head


def score(tensors: dict[str, Tensor], facts: dict[str, Any], adapters: dict[str, Adapter]) -> dict[str, Tensor]:
    """Return, per adapter, the class that each held-out row gets when it is left out; and the rows scored."""
    held = torch.nonzero(tensors["holdout"]).view(-1)[-SCORED:]
    ridge = _ridge_scores(tensors, facts, held)
    answers = {"rows": held}
    for name, adapter in adapters.items():
        head = head_of(tensors, facts, adapter)
        head.index()
        answers[name] = torch.cat([_answer(head.snapshot(), tensors, held[i:i + 256], ridge[i:i + 256])
                                   for i in range(0, len(held), 256)]) if len(held) else torch.zeros(0, dtype=torch.int64)
    return answers


def _ridge_scores(tensors: dict[str, Tensor], facts: dict[str, Any], held: Tensor) -> Tensor:
    """Return the ridge's leave-one-out scores [n, C]."""
    features = RandomFeatures(tensors["vectors"].shape[1], facts["features"], facts["seed"])
    y, classes = tensors["targets"], len(facts["labels"])
    h = torch.cat([features(tensors["vectors"][i:i + 1024]).to(torch.int8) for i in range(0, len(y), 1024)])
    return leave_out(h, y, weights(torch.bincount(y, minlength=classes))[y], tensors["content"], classes, held)


def _answer(head: HeadSnapshot, tensors: dict[str, Tensor], held: Tensor, ridge: Tensor) -> Tensor:
    vectors, group = tensors["vectors"][held], tensors["content"]
    similarity, slots = head.retrieve(vectors)
    own = (group[np.maximum(slots, 0)] == group[held][:, None]).numpy()
    said = pool_opinions(head, ridge.numpy(), _cosines(head, tensors, held).numpy(), similarity, np.where(own, -1, slots))
    return torch.from_numpy(said.pooled.argmax(1))


def _cosines(head: HeadSnapshot, tensors: dict[str, Tensor], held: Tensor) -> Tensor:
    """Nearest-mean scores with each row taken out of its own class's mean."""
    vectors, y = tensors["vectors"][held], tensors["targets"][held]
    scores = head.centres.scores(vectors, head.adapter)
    n = torch.from_numpy(head.counts)[y].float()[:, None]
    z = vectors.float() - head.centres.centre
    z = z if head.adapter.projection is None else z @ head.adapter.projection
    mean = head.centres.directions[y] * head.centres.lengths[y][:, None]
    rest = (mean * n - z) / (n - 1).clamp(min=1)
    cosine = torch.nn.functional.cosine_similarity(rest, z, dim=1)
    scores[torch.arange(len(held)), y] = torch.where(n[:, 0] > 1, cosine, torch.full_like(cosine, -1.0))
    return scores


def main(folder: Path) -> None:
    """Evaluate one job's folder; write `out/scores.safetensors`."""
    job = json.loads((folder / "in" / "job.json").read_text())
    be_a_quiet_child(job["parent_pid"])
    torch.set_num_threads(job["threads"])
    tensors, facts = files.parse((folder / "in" / "rows.safetensors").read_bytes(), "rows")
    dim = tensors["vectors"].shape[1]
    adapters = {name: files.parse_adapter((folder / place / "adapter.safetensors").read_bytes(), name, dim)
                for name, place in (("champion", "in"), ("candidate", "out"))}
    answers = score(tensors, facts, adapters)
    if np.isnan(float(adapters["candidate"].scale)):
        raise CorruptFile("candidate: the scale is not a number")
    target = folder / "out" / "scores.safetensors"
    target.with_suffix(".tmp").write_bytes(files.dump(answers, {}))
    os.replace(target.with_suffix(".tmp"), target)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except AdaptdError as error:
        sys.exit(json.dumps(error.body()))
