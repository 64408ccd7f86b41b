"""The one module that imports Avalanche: turns a `Task` into two of its experiences and trains on the second.

The first experience holds remembered rows and is passed with no epoch: after it Avalanche's plugins do what they do
after any experience (fill the replay memory, measure the Fisher information, keep a copy of the network …). The
second holds the new rows. Imported in the trainer process only.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from avalanche.benchmarks import DatasetExperience
from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset
from avalanche.training.plugins import EWCPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor

from adaptd.errors import TrainingFailed

if TYPE_CHECKING:
    from adaptd.strategies import Naive
    from adaptd.strategies.task import Task

WEIGHT_DECAY = 1e-2
FISHER_BATCH = 32  # Avalanche squares the mean gradient of a batch: the smaller, the closer to the Fisher information


def train(task: Task, options: Naive) -> dict[str, float]:
    """Train `task.network` by a strategy's learner; equal tasks and seeds give equal bits on one CPU thread.

    Raises
    ------
    TrainingFailed
        The loss or a weight is not finite.
    """
    _seed(task.seed)
    course = Course(task, options)
    optimizer = torch.optim.AdamW(task.network.parameters(), options.learning_rate, weight_decay=WEIGHT_DECAY)
    rows = len(task.new) + len(task.old)
    common = {"model": task.network, "optimizer": optimizer, "criterion": torch.nn.NLLLoss(), "device": task.device,
              "train_mb_size": min(options.batch, max(16, rows // 8)), "train_epochs": 0, "plugins": [course]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Avalanche: no loggers, own deprecations
        learner = options.learner(task, {**common, "evaluator": None, "eval_every": -1})
        if options.memory and len(task.old):
            learner.train([_experience(task, _sample(task.old, options.memory), 0)], [])
        learner.train_epochs = options.steps  # an epoch has one step at least; the course ends earlier
        learner.train([_experience(task, task.new, 1)], [])
    if not all(bool(torch.isfinite(weight).all()) for weight in task.network.parameters()):
        raise _diverged(course.step, options)
    return {"steps": course.step, "loss_first": course.first, "loss_last": course.last}


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _sample(rows: Tensor, most: int) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows))[:most].sort().values]


def _experience(task: Task, rows: Tensor, number: int) -> DatasetExperience:
    """Wrap row numbers and their targets; plain tuples, because Avalanche fetches items one by one."""
    targets = task.network.targets[rows].tolist()
    data = TaskAwareSupervisedClassificationDataset(
        [list(zip(rows.tolist(), targets, strict=True))], collate_fn=_collate,
        data_attributes=[DataAttribute(targets, "targets"),
                         DataAttribute([0] * len(targets), "targets_task_labels", use_in_getitem=True)])
    return DatasetExperience(dataset=data, current_experience=number)


def _collate(items: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return [rows, targets, task labels] of a batch."""
    return list(torch.from_numpy(np.array(items, dtype=np.int64).T.copy()))


def _diverged(step: int, options: Naive) -> TrainingFailed:
    return TrainingFailed(f"{options.name}: training diverged at step {step} of {options.steps}: a value is not finite",
                          hint="lower learning_rate below [adapt.options]; the champion stays")


class Course(SupervisedPlugin):  # type: ignore[misc]
    """The course of a training: the learning rate falls linearly to zero over the steps, then training stops."""

    def __init__(self, task: Task, options: Naive) -> None:
        super().__init__()
        self.task, self.options = task, options
        self.step, self.first, self.last = 0, float("nan"), float("nan")

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Set this step's learning rate."""
        for group in strategy.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * (1 - self.step / self.options.steps)

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Count the step; refuse a loss that is not finite."""
        self.step, self.last = self.step + 1, float(strategy.loss)
        if self.step == 1:
            self.first = self.last
        if not np.isfinite(self.last):
            raise _diverged(self.step, self.options)
        if self.step >= self.options.steps:
            strategy.stop_training()

    def after_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Say how far it is."""
        done = self.step / self.options.steps
        self.task.progress(done, f"step {self.step} of {self.options.steps}, loss {self.last:.3f}")


class _Remembered(ExemplarsBuffer):  # type: ignore[misc]
    """Our memory as Avalanche's: the rows of the first experience, all of them."""

    buffer: Any

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        if not len(self.buffer):
            self.buffer = exp.dataset

    def resize(self, strategy: Any, new_size: int) -> None:
        self.max_size = new_size


class _Replay(ReplayPlugin):  # type: ignore[misc]
    """Avalanche's replay; fills its memory by the call that is not deprecated."""

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        self.storage_policy.post_adapt(strategy, strategy.experience)


def replay(memory: int, batch: int) -> SupervisedPlugin:
    """Return Avalanche's replay that draws `batch` rows a step from our memory."""
    return _Replay(mem_size=memory, batch_size_mem=batch, storage_policy=_Remembered(memory))


class _Consolidation(EWCPlugin):  # type: ignore[misc]
    """Avalanche's EWC; what it would measure after the new rows is of no use, as the run ends there."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == 0:
            strategy.train_mb_size, batch = FISHER_BATCH, strategy.train_mb_size
            super().after_training_exp(strategy, **kwargs)
            strategy.train_mb_size = batch


def consolidation(strength: float) -> SupervisedPlugin:
    """Return Avalanche's online EWC."""
    return _Consolidation(ewc_lambda=strength, mode="online", decay_factor=1.0)
