"""Fine-tune: `python -m adaptd.finetune FOLDER` trains what writes a domain's texts. A folder in, a folder out.

In: `in/job.json` (as of `adaptd.trainer`, with the domain), `in/rows.safetensors` (ids, fresh, content), `in/pairs.json` (of each
row its text and what was taught of it; what has the content of a held-out row is left out) and `in/adapter.safetensors` (the
champion's). Out: `out/adapter.safetensors`, the champion's with what was trained in it, `out/losses.json`, then
`out/report.json`. Training begins from the model as it is, not from the champion. It gives way as the trainer does. It keeps no
place: one that was ended begins anew.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from adaptd import generator, plugins
from adaptd.errors import Conflict
from adaptd.interfaces import Domain, Trainable
from adaptd.model import files
from adaptd.model.encoder import pick_device
from adaptd.records import Lesson
from adaptd.trainer import Job, exit_code, give_way, progress, write

MOST_PAIRS = 20_000  # drawn where there are more: what bounds the time


@dataclass(frozen=True, kw_only=True)
class Writing(Job):
    """A job about texts that are written.

    `domain` has name, kind, options, and the folder from which they are seen; `held` the contents that are held out.
    """

    domain: dict[str, Any]
    held: list[int]


def opened(folder: Path) -> tuple[Writing, Domain, Trainable]:
    """Read a job, give way as it says, and load the domain's generator; refuse one that is not trained."""
    job = plugins.build(Writing, json.loads((folder / "in" / "job.json").read_text("utf-8")), "job")
    give_way(job)
    os.chdir(job.domain["folder"])
    domain = generator.domain({**job.domain, "plugins": job.plugins})
    made = domain.generator()
    if not isinstance(made, Trainable):
        raise Conflict("the domain's generator is none that is trained", hint="its head says trainable, and it lacks a method")
    made.load()
    torch.set_num_threads(job.threads)
    return job, domain, made


def run(folder: Path) -> None:
    """Train on the pairs of a job and write the candidate."""
    job, _, made = opened(folder)
    champion = files.parse_adapter((folder / "in" / "adapter.safetensors").read_bytes(), "in/adapter.safetensors")
    rows, _ = files.parse((folder / "in" / "rows.safetensors").read_bytes(), "rows")
    told = json.loads((folder / "in" / "pairs.json").read_text("utf-8"))
    held = torch.isin(rows["content"], torch.tensor(job.held, dtype=torch.int64)).tolist()  # taught again in another event
    pairs = [(text, taught) for (text, taught), one in zip(told, held, strict=True) if not one]
    drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(job.seed))[:MOST_PAIRS].sort().values.tolist()
    lesson = Lesson(pairs=[pairs[row] for row in drawn], seed=job.seed, device=pick_device(job.device), progress=progress)
    started, used = time.monotonic(), time.process_time()
    weights = files.parse_weights(made.train(lesson), "what was trained")
    numbers = {"loss_first": lesson.losses[0], "loss_last": lesson.losses[-1]} if lesson.losses else {}
    report = {
        "strategy": job.strategy, "device": lesson.device, "numbers": numbers, "rows": len(lesson.pairs),
        "new": int(rows["fresh"].sum()), "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time() - used, 3), "seed": job.seed, "threads": job.threads,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {name: version(name) for name in ("adaptd", "torch")},
    }
    write(folder / "out" / "adapter.safetensors", files.dump_adapter(replace(champion, weights=weights)))
    write(folder / "out" / "losses.json", json.dumps(lesson.losses).encode())
    write(folder / "out" / "report.json", json.dumps(report, sort_keys=True).encode())


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(Path(sys.argv[1]))))
