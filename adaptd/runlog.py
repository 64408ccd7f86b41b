"""Run logs: `python -m adaptd.runlog FOLDER` writes a finished adaptation for TensorBoard or Weights & Biases, by option.

A child process, as both take seconds to import and neither may be in the way of an adaptation: it is started when the verdict
is there, reads the run (`Run`, JSON) from standard input, and gives way to everything. W&B stays offline unless the daemon's
environment says otherwise (WANDB_MODE).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptd.process import be_a_quiet_child, environment

LIMIT_S = 120.0
KEPT = 500  # runs in each format; the oldest go


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is told of one head's adaptation: numbers, no label and no text."""

    parent_pid: int
    log: list[str]  # tensorboard, wandb
    domain: str
    head: str
    version: int
    decision: str
    config: dict[str, Any]  # strategy, seed and so on
    losses: list[float]  # by epoch
    figures: dict[str, float]  # losses and holdout accuracy, before and after

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.domain}-{self.head}-v{self.version}"


def write(run: Run, folder: Path) -> None:
    """Write a run in a child process, and wait for that.

    Raises
    ------
    OSError
        It failed, or took too long; nothing else depends on it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        done = subprocess.run([sys.executable, "-P", "-m", "adaptd.runlog", str(folder)], input=json.dumps(asdict(run)),
                              text=True, capture_output=True, errors="replace", timeout=LIMIT_S, env=environment())
    except subprocess.TimeoutExpired:
        raise OSError(f"it took more than {LIMIT_S:g} s") from None
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or ["no message"])[-1])
    for name in run.log:
        _sweep(folder / name)


def _sweep(folder: Path) -> None:
    """Let go of the oldest runs beyond `KEPT`."""
    runs = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []
    for old in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        shutil.rmtree(old)


# -- in the child ---------------------------------------------------------------------------------------------


def main(folder: Path) -> None:
    """Write the run on standard input into a folder."""
    run = Run(**json.load(sys.stdin))
    be_a_quiet_child(run.parent_pid)
    for name in run.log:
        WRITERS[name](run, folder)


def tensorboard(run: Run, folder: Path) -> None:
    """Write events for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard" / run.name)) as writer:
        for epoch, loss in enumerate(run.losses, 1):
            writer.add_scalar("loss", loss, epoch)
        for name, figure in run.figures.items():
            writer.add_scalar(name, figure, run.version)
        writer.add_text("verdict", run.decision, run.version)
        writer.add_text("config", json.dumps(run.config), run.version)


def wandb(run: Run, folder: Path) -> None:
    """Write a run for Weights & Biases; `wandb sync` sends it, when somebody wants that."""
    for name, place in (("WANDB_CONFIG_DIR", "config"), ("WANDB_CACHE_DIR", "cache"), ("WANDB_DATA_DIR", "data")):
        os.environ.setdefault(name, str(folder / "wandb-home" / place))  # not the home folder, which a service may not write
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    config = {**run.config, "domain": run.domain, "head": run.head, "version": run.version}
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    with wandb.init(project="adaptd", group=run.domain, name=run.name, dir=str(folder), config=config, mode=mode,
                    settings=wandb.Settings(silent=True, console="off", x_disable_stats=True)) as open_run:
        for loss in run.losses:
            open_run.log({"loss": loss})
        open_run.summary.update({**run.figures, "verdict": run.decision})


WRITERS: dict[str, Callable[[Run, Path], None]] = {"tensorboard": tensorboard, "wandb": wandb}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
