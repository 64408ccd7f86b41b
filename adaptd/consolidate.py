"""Consolidate: `python -m adaptd.consolidate FOLDER` tunes a copy of the encoder's upper blocks. A folder in, a folder out.

In: `in/job.json` (as of `adaptd.trainer`, with the encoder; its `options` are `adaptd.model.tuning.Tuning`),
`in/rows.safetensors` (targets and fresh), `in/texts.json` (a text for each row) and `in/adapter.safetensors` (the champion's).
Out: `out/adapter.safetensors`, the champion's with these blocks in it, `out/losses.json`, then `out/report.json`. It gives way as
the trainer does. It keeps no place: one that was ended begins anew.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptd import plugins
from adaptd.errors import Conflict
from adaptd.interfaces import Encoder, Tunable
from adaptd.model import files
from adaptd.model.encoder import pick_device
from adaptd.model.tuning import SCALE, Tuning, tune
from adaptd.model.upper import Upper
from adaptd.records import Example
from adaptd.trainer import Job, balanced, exit_code, give_way, progress, write

TOKENS = 1_000_000  # whose states are kept while blocks are tuned, 16 bits: 0.8 GB with MiniLM
PART = 1024  # texts that are read at once


@dataclass(frozen=True, kw_only=True)
class Reading(Job):
    """A job that reads events itself: `encoder` has the kind and the options."""

    encoder: dict[str, Any]


def main(folder: Path) -> int:
    """Run the job of a folder; return the exit code."""
    def trained() -> None:
        job = plugins.build(Reading, json.loads((folder / "in" / "job.json").read_text("utf-8")), "job")
        give_way(job)
        run(folder, job)

    return exit_code(trained)


def run(folder: Path, job: Reading) -> None:
    """Tune the blocks of a job and write the candidate."""
    how = plugins.build(Tuning, job.options, "consolidate.options")
    started, used = time.monotonic(), time.process_time()
    champion = files.parse_adapter((folder / "in" / "adapter.safetensors").read_bytes(), "in/adapter.safetensors")
    rows, _ = files.parse((folder / "in" / "rows.safetensors").read_bytes(), "rows")
    texts: list[str] = json.loads((folder / "in" / "texts.json").read_text("utf-8"))
    chosen = balanced(torch.arange(len(texts)), rows["targets"], how.rows, torch.Generator().manual_seed(job.seed))
    upper, losses, numbers = tuned(open_encoder(job), [texts[row] for row in chosen.tolist()], rows["targets"][chosen], job, how,
                                   champion.upper)
    report = {
        "strategy": job.strategy, "device": pick_device(job.device), "numbers": numbers, "rows": int(numbers["read"]),
        "new": int(rows["fresh"].sum()), "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time() - used, 3), "seed": job.seed, "threads": job.threads,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {name: version(name) for name in ("adaptd", "torch", "transformers")},
    }
    write(folder / "out" / "adapter.safetensors", files.dump_adapter(replace(champion, upper=upper)))
    write(folder / "out" / "losses.json", json.dumps(losses).encode())
    write(folder / "out" / "report.json", json.dumps(report, sort_keys=True).encode())


def open_encoder(job: Reading) -> Tunable:
    """Load the encoder of a job; refuse one whose blocks cannot be tuned."""
    kinds = plugins.collect(plugins.load("adaptd.learner", job.plugins), "register_encoders")
    encoder: Encoder = plugins.build(plugins.pick(kinds, job.encoder["kind"], "encoder.kind"), job.encoder["options"],
                                     "encoder.options")
    encoder.load()
    if not isinstance(encoder, Tunable):
        raise Conflict(f"the encoder {encoder.name!r} cannot be tuned", hint="text encoders of the kind of BERT can be")
    return encoder


def tuned(encoder: Tunable, texts: list[str], targets: Tensor, job: Job, how: Tuning, champion: Upper | None = None,
          tell: Callable[[float, str], None] = progress) -> tuple[Upper, list[float], Mapping[str, float]]:
    """Tune blocks on texts; return them, the loss by epoch, and numbers to log. Where texts are long fewer of them are taken.

    `champion`: the tuned blocks that are live, of which a candidate may learn what they say of the labels that they know.
    """
    cut = encoder.depth - how.blocks
    blocks, ids = encoder.blocks(cut), encoder.tokens(texts)
    most = max(1, int(len(ids) * min(1.0, TOKENS / sum(map(len, ids)))))
    rows = balanced(torch.arange(len(ids)), targets, most, torch.Generator().manual_seed(job.seed)).tolist()
    states: list[Tensor] = []
    for start in range(0, len(rows), PART):
        tell(0.0, f"reading, {start} of {len(rows)}")
        states += [state.half() for state in encoder.lower([ids[row] for row in rows[start:start + PART]], cut)]
    known = sorted(set(targets[rows].tolist()))  # a label all of whose rows are held out has no direction
    place = {target: number for number, target in enumerate(known)}
    within = torch.tensor([place[target] for target in targets[rows].tolist()])
    labels = tuple(job.labels[target] for target in known)
    taught = None if champion is None or not how.distil else _said(encoder, [texts[row] for row in rows], champion, labels, tell)
    weights, directions, losses = tune(blocks, states, within, len(known), how, job.seed, pick_device(job.device), tell, taught)
    upper = Upper(encoder=encoder.digest, cut=cut, method=how.method, blocks=weights, directions=directions, labels=labels,
                  scale=SCALE)
    numbers = {"loss_first": losses[0], "loss_last": losses[-1], "labels": float(len(known)), "read": float(len(rows))}
    return upper, losses, numbers


def _said(encoder: Tunable, texts: Sequence[str], champion: Upper, labels: Sequence[str],
          tell: Callable[[float, str], None]) -> Tensor | None:
    """Return the champion's scores of texts [n, labels], -inf for a label that it does not know.

    None where it has nothing to say: it is of another encoder, or knows none of the labels.
    """
    place = {label: number for number, label in enumerate(labels)}
    shared = [number for number, label in enumerate(champion.labels) if label in place]
    if champion.encoder != encoder.digest or not shared:
        return None
    found = torch.full((len(texts), len(labels)), -torch.inf)
    for start in range(0, len(texts), PART):
        part = texts[start:start + PART]
        tell(0.0, f"asking the champion, {start} of {len(texts)}")
        scores = champion.scores(encoder.tuned([Example(text=text) for text in part], champion))
        found[start:start + len(part), [place[champion.labels[number]] for number in shared]] = scores[:, shared]
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
