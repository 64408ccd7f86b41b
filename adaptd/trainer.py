"""The trainer: `python -m adaptd.trainer FOLDER`. A folder in, a folder out; nothing else is shared with the daemon.

In: `in/job.json` (the `Job`), `in/rows.safetensors` (vectors, targets, fresh; oldest first) and
`in/adapter.safetensors` (the champion's). Out: `out/adapter.safetensors`, `out/losses.json` (by epoch), then
`out/report.json`: when the report is there, the candidate is whole. Progress goes to standard output, one JSON object a
line; the reason of a failure to standard error, as the last line, `{"code", "message", "hint"}`, with exit code 1.
Every few seconds `out/place.safetensors` says where the training has come to. The same folder again goes on from there.

It gives way to everything: lowest priority, the kernel's first choice when memory is short, killed with its parent, and
by it when its time is over: nothing of use is lost then, as results are renamed into place whole.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptd import plugins
from adaptd.errors import AdaptdError, CorruptFile, TrainingFailed
from adaptd.interfaces import Strategy
from adaptd.model import files
from adaptd.model.attention import Adapter, TrainableAttention
from adaptd.model.encoder import pick_device
from adaptd.process import NICE, be_a_quiet_child
from adaptd.strategies.task import Place, Task

MOST_ROWS = 50_000  # new ones, and as many old ones: what bounds memory
KEYS = 2000  # remembered rows that a step attends to
DROPOUT = 0.1  # of the query's features
BEGINNING = Place()
MEASURED = 1000  # rows that a loss in the report is the mean of
PLACE = "place.safetensors"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `in/job.json` says."""

    strategy: str
    labels: list[str]
    parent_pid: int
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    rank: int = 256
    plugins: list[str] = field(default_factory=list)  # distributions that may be loaded
    nice: int = NICE


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The training rows, oldest first, the held-out ones not among them."""

    vectors: Tensor  # float16 [n, dim]
    targets: Tensor  # int64 [n], index into the job's labels
    fresh: Tensor  # bool [n]: of the experience


def main(folder: Path) -> int:
    """Run the job of a folder; return the exit code."""
    def trained() -> None:
        job = read_job(folder)
        give_way(job)
        run(folder, job)

    return exit_code(trained)


def read_job(folder: Path) -> Job:
    """Read `in/job.json`; what is not known is refused by name."""
    try:
        return plugins.build(Job, json.loads((folder / "in" / "job.json").read_text("utf-8")), "job")
    except (OSError, ValueError) as error:
        raise TrainingFailed(f"job.json: {error}") from None


def run(folder: Path, job: Job) -> None:
    """Train the candidate of a job and write it."""
    strategy = _strategy(job)
    device = pick_device(job.device)
    rows = read_rows(folder / "in" / "rows.safetensors", len(job.labels), job.seed)
    champion = files.parse_adapter((folder / "in" / "adapter.safetensors").read_bytes(), "in/adapter.safetensors",
                                   rows.vectors.shape[1])
    started, used = time.monotonic(), time.process_time()
    place = folder / "out" / PLACE
    network, numbers, losses = train(strategy, rows, champion, job, device, progress, _found(place),
                                     lambda now: write(place, files.dump(now.tensors, now.facts)))
    report = {
        "strategy": strategy.name, "device": device, "numbers": numbers, "rows": len(rows.targets),
        "new": int(rows.fresh.sum()), "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(time.process_time() - used, 3), "seed": job.seed, "threads": job.threads,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "versions": {name: version(name) for name in ("adaptd", "torch", "avalanche-lib")},
    }
    write(folder / "out" / "adapter.safetensors", files.dump_adapter(network))
    write(folder / "out" / "losses.json", json.dumps(losses).encode())
    write(folder / "out" / "report.json", json.dumps(report, sort_keys=True).encode())
    place.unlink(missing_ok=True)


def train(strategy: Strategy, rows: Rows, champion: Adapter, job: Job, device: str,
          progress: Callable[[float, str], None], found: Place = BEGINNING,
          keep: Callable[[Place], None] = lambda place: None) -> tuple[Adapter, dict[str, float], list[float]]:
    """Adapt the champion to the rows; return the candidate's adapter, numbers about the training, the loss by epoch."""
    generator = torch.Generator().manual_seed(job.seed)
    rank = min(job.rank, rows.vectors.shape[1])
    network = TrainableAttention(rows.vectors, rows.targets, len(job.labels), champion, job.labels, rank, KEYS, DROPOUT,
                                 generator).to(device)
    new, old = torch.nonzero(rows.fresh).view(-1), torch.nonzero(~rows.fresh).view(-1)
    before = _losses(network, new, old, job.seed)
    generator.manual_seed(job.seed)
    task = Task(network=network, new=new, old=old, device=device, seed=job.seed, progress=progress, found=found, keep=keep)
    numbers = dict(strategy.adapt(task))
    after = _losses(network, new, old, job.seed)
    for name, loss in after.items():
        if loss != loss:
            raise TrainingFailed(f"{strategy.name}: the loss on {name} rows is not finite after training")
        numbers |= {f"loss_{name}_before": before[name], f"loss_{name}_after": loss}
    return replace(network.adapter(), upper=champion.upper), numbers, task.losses


def _found(file: Path) -> Place:
    """Return where the training of this folder had come to; one that is damaged begins anew."""
    try:
        tensors, facts = files.parse(file.read_bytes(), file.name)
    except (OSError, CorruptFile):
        return BEGINNING
    return Place(tensors=tensors, facts=facts)


def _strategy(job: Job) -> Strategy:
    known = plugins.collect(plugins.load("adaptd.learner", job.plugins), "register_strategies")
    chosen: type[Strategy] = plugins.pick(known, job.strategy, "adapt.strategy")
    return plugins.build(chosen, job.options, "adapt.options")


@torch.no_grad()
def _losses(network: TrainableAttention, new: Tensor, old: Tensor, seed: int) -> dict[str, float]:
    """Return the mean loss on a sample of new and old rows, the same sample and keys at each call."""
    network.eval()
    losses = {}
    for name, rows in (("new", new), ("old", old)):
        if len(rows):
            network.generator.manual_seed(seed)
            chosen = rows[torch.randperm(len(rows), generator=network.generator)[:MEASURED]].to(network.targets.device)
            losses[name] = float(torch.nn.functional.nll_loss(network(chosen), network.targets[chosen]))
    return losses


# -- rows -----------------------------------------------------------------------------------------------------


def read_rows(path: Path, classes: int, seed: int) -> Rows:
    """Read the rows to train on: all, or a sample balanced over classes where there are too many.

    The file is mapped, so that only the chosen rows' vectors enter memory.

    Raises
    ------
    CorruptFile
        Not a rows file, or its values do not fit together.
    """
    try:
        with safe_open(path, framework="pt") as file:
            vectors, targets = file.get_tensor("vectors"), file.get_tensor("targets")
            fresh = file.get_tensor("fresh").bool()
            if not len(vectors) == len(targets) == len(fresh) or vectors.ndim != 2:
                raise CorruptFile(f"{path.name}: vectors {tuple(vectors.shape)}, targets {tuple(targets.shape)}, "
                                  f"fresh {tuple(fresh.shape)}: not one row each")
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.cat([balanced(torch.nonzero(part).view(-1), targets, MOST_ROWS, generator)
                                for part in (fresh, ~fresh)]).sort().values
            rows = Rows(vectors=vectors[chosen], targets=targets[chosen], fresh=fresh[chosen])
    except (OSError, SafetensorError) as error:
        raise CorruptFile(f"{path.name}: {error}") from None
    _check(rows, classes, path.name)
    return rows


def _check(rows: Rows, classes: int, name: str) -> None:
    if not bool(rows.fresh.any()):
        raise TrainingFailed("there are no new rows to learn from")
    if not bool(torch.isfinite(rows.vectors).all()):
        raise CorruptFile(f"{name}: vectors has values that are not finite")
    if int(rows.targets.min()) < 0 or int(rows.targets.max()) >= classes:
        raise CorruptFile(f"{name}: a target is not the index of one of {classes} labels")


def balanced(rows: Tensor, targets: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return at most `most` of the rows, drawn class by class in turn, so that small classes stay whole.

    >>> drawn = balanced(torch.arange(6), torch.tensor([0, 0, 0, 0, 1, 1]), 4, torch.Generator().manual_seed(0))
    >>> torch.tensor([0, 0, 0, 0, 1, 1])[drawn].tolist()
    [0, 0, 1, 1]
    """
    if len(rows) <= most:
        return rows
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    by_class = shuffled[targets[shuffled].sort(stable=True).indices]
    counts = torch.bincount(targets[by_class])
    turn = torch.arange(len(by_class)) - (counts.cumsum(0) - counts)[targets[by_class]]
    return by_class[turn.sort(stable=True).indices[:most]].sort().values


# -- the process ----------------------------------------------------------------------------------------------


def give_way(job: Job) -> None:
    """Bind this process to its parent, its threads and its seed."""
    be_a_quiet_child(job.parent_pid, job.nice)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic CUDA wants
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(job.seed)


def progress(done: float, words: str) -> None:
    """Tell the daemon how far this is."""
    print(json.dumps({"progress": round(done, 4), "words": words}), flush=True)


def exit_code(run: Callable[[], None]) -> int:
    """Run a child's work; return its exit code, and tell the daemon why it failed."""
    try:
        run()
    except AdaptdError as error:
        return fail(error.body())
    except Exception as error:  # a strategy, or a generator, may be a stranger's: the daemon wants one line, not silence
        return fail(TrainingFailed(f"{type(error).__name__}: {error}").body())
    return 0


def fail(body: Mapping[str, Any]) -> int:
    """Tell the daemon why this failed; return the exit code."""
    print(json.dumps(body), file=sys.stderr, flush=True)
    return 1


def write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
