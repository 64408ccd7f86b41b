"""Evaluate: candidate and champion on the same held-out rows, each left out exactly. A child process.

``python -m adaptd.evaluate FOLDER`` reads what a training job left: the rows, the champion's adapter, the candidate's. It is
the mechanical check as well: the candidate's file is loaded from the disk, must be finite and of the right shape, and must
answer. Held-out rows are in sums and memory like all others; here each is scored as if neither it nor another row of the same
content had been learned (`closed_form.leave_out`, masked neighbours, class means without them). Tuned upper blocks have never
seen them: their texts are read here. Eviction does not touch the judging: an evicted held-out row is scored like the others,
and evicted rows are in sums and means here as they are in the daemon; only attention does not find them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import heads, plugins
from adaptd.consolidate import Reading, open_encoder
from adaptd.errors import CorruptFile
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.closed_form import RandomFeatures, leave_out, weights
from adaptd.model.decoder import pool_opinions, tempered
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions
from adaptd.model.reading import nearer
from adaptd.model.snapshot import HeadSnapshot
from adaptd.process import be_a_quiet_child
from adaptd.records import Example, Paired
from adaptd.trainer import exit_code, write

SCORED = 20_000  # held-out rows at most, the newest
READ = 1024  # texts that tuned blocks read at once: each takes the room of its tokens


def head_of(tensors: dict[str, Tensor], facts: dict[str, Any], adapter: Adapter) -> Head:
    """Build a head with these rows; its ridge is not solved (every held-out row has its own)."""
    options = HeadOptions(dim=tensors["vectors"].shape[1], features=facts["features"], neighbours=facts["neighbours"],
                          seed=facts["seed"], kind=heads.of(facts["kind"]))
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


def score(tensors: dict[str, Tensor], facts: dict[str, Any], adapters: dict[str, Adapter],
          tuned: Mapping[str, Tensor | None] = MappingProxyType({})) -> dict[str, Tensor]:
    """Return, per adapter, the class that each held-out row gets when it is left out; and the rows scored.

    `tuned` is, per adapter, what its tuned upper blocks make of the held-out rows [n, width]. Of a head whose classes have an
    order also which answer is `nearer` to the label: 1 the candidate's, -1 the champion's.
    """
    held = held_out(tensors)
    ridge = ridge_scores(tensors, facts, held)
    found = {"rows": held, **{name: answers(tensors, facts, adapter, held, ridge, tuned.get(name))
                              for name, adapter in adapters.items()}}
    return found | nearer_ones(found, tensors, facts)


def nearer_ones(found: Mapping[str, Tensor], tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return which answer is `nearer`, of a head whose classes have an order; nothing of another."""
    kind, labels = heads.of(facts["kind"]), facts["labels"]
    if not isinstance(kind, heads.Ordinal | heads.Regress):
        return {}
    truth = tensors["targets"][found["rows"]]
    rows = zip(found["candidate"].tolist(), found["champion"].tolist(), truth.tolist(), strict=True)
    return {"nearer": torch.tensor([nearer(kind, *(labels[c] for c in row)) for row in rows], dtype=torch.int64)}


def paired(scores: Mapping[str, Tensor], tensors: Mapping[str, Tensor], labels: Sequence[str], earlier: Sequence[int]) -> Paired:
    """Return what the gate judges of what was scored; of heads with an order a row is won by who comes nearer."""
    truth, nearer = tensors["targets"][scores["rows"]], scores.get("nearer")
    right = {name: (scores[name] == truth).int().tolist() for name in ("candidate", "champion")}
    return Paired(candidate=right["candidate"] if nearer is None else (nearer >= 0).int().tolist(),
                  champion=right["champion"] if nearer is None else (nearer <= 0).int().tolist(),
                  classes=[labels[c] for c in truth.tolist()], earlier=earlier)


def held_out(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the rows that judge, oldest first."""
    return torch.nonzero(tensors["holdout"]).view(-1)[-SCORED:]


def answers(tensors: dict[str, Tensor], facts: dict[str, Any], adapter: Adapter, held: Tensor, ridge: Tensor,
            tuned: Tensor | None = None) -> Tensor:
    """Return the class that each of these rows gets by an adapter when it is left out."""
    head = head_of(tensors, facts, adapter)
    head.index()
    return torch.cat([torch.zeros(0, dtype=torch.int64),
                      *(_answer(head.snapshot(), tensors, held[i:i + 256], ridge[i:i + 256],
                                None if tuned is None else tuned[i:i + 256]) for i in range(0, len(held), 256))])


def ridge_scores(tensors: dict[str, Tensor], facts: dict[str, Any], held: Tensor) -> Tensor:
    """Return the ridge's leave-one-out scores [n, C]."""
    features = RandomFeatures(tensors["vectors"].shape[1], facts["features"], facts["seed"])
    y, classes = tensors["targets"], len(facts["labels"])
    h = torch.cat([features(tensors["vectors"][i:i + 1024]).to(torch.int8) for i in range(0, len(y), 1024)])
    weight = weights(torch.bincount(y, minlength=classes))[y]
    return leave_out(h, y, weight, tensors["content"], classes, held, facts["strength"])


def _answer(head: HeadSnapshot, tensors: dict[str, Tensor], held: Tensor, ridge: Tensor, tuned: Tensor | None) -> Tensor:
    vectors, group = tensors["vectors"][held], tensors["content"]
    similarity, slots = head.retrieve(vectors)
    own = (group[np.maximum(slots, 0)] == group[held][:, None]).numpy()
    said = pool_opinions(head, ridge.numpy(), _cosines(head, tensors, held).numpy(), similarity, np.where(own, -1, slots),
                         tuned)
    return torch.tensor([head.reading.answered(row)[0] for row in tempered(said.pooled, head)], dtype=torch.int64)


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


def _tuned(folder: Path, adapters: Mapping[str, Adapter]) -> dict[str, Tensor | None]:
    """Have the texts of the held-out rows read by each adapter's tuned upper blocks."""
    if all(adapter.upper is None for adapter in adapters.values()):
        return {}
    job = plugins.build(Reading, json.loads((folder / "in" / "held.json").read_text("utf-8")), "job")
    texts: list[str] = json.loads((folder / "in" / "held-texts.json").read_text("utf-8"))
    encoder = open_encoder(job)
    parts = [[Example(text=text) for text in texts[start:start + READ]] for start in range(0, max(1, len(texts)), READ)]
    return {name: None if adapter.upper is None else torch.cat([encoder.tuned(part, adapter.upper) for part in parts])
            for name, adapter in adapters.items()}


def main(folder: Path) -> None:
    """Evaluate one job's folder; write `out/scores.safetensors`."""
    job = json.loads((folder / "in" / "job.json").read_text())
    be_a_quiet_child(job["parent_pid"])
    torch.set_num_threads(job["threads"])
    tensors, facts = files.parse((folder / "in" / "judged.safetensors").read_bytes(), "rows")
    dim = tensors["vectors"].shape[1]
    adapters = {name: files.parse_adapter((folder / place / "adapter.safetensors").read_bytes(), name, dim)
                for name, place in (("champion", "in"), ("candidate", "out"))}
    answers = score(tensors, facts, adapters, _tuned(folder, adapters))
    if np.isnan(float(adapters["candidate"].scale)):
        raise CorruptFile("candidate: the scale is not a number")
    write(folder / "out" / "scores.safetensors", files.dump(answers, {}))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]))))
