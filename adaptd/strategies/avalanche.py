"""Turns a `Task` into two experiences of Avalanche's and trains on the second. Imported in the trainer process only.

The first experience holds remembered rows and is passed with no epoch, unless a strategy wants to learn them again:
after it Avalanche's plugins do what they do after any experience (fill the replay memory, measure the Fisher
information, keep the weights …). The second holds the new rows.
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
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from adaptd.errors import TrainingFailed

if TYPE_CHECKING:
    from adaptd.strategies import Naive
    from adaptd.strategies.task import Task

WEIGHT_DECAY = 1e-2
REMEMBERED, NEW = 0, 1  # the experiences' numbers


def train(task: Task, options: Naive, *, rehearsal: int = 0) -> dict[str, float]:
    """Train `task.network` by a strategy's learner; equal tasks and seeds give equal bits on one CPU thread.

    `rehearsal` is the number of steps on remembered rows alone, before the new ones.

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
            course.begin(learner, rehearsal)
            learner.train([_experience(task, _sample(task.old, options.memory), REMEMBERED)], [])
        course.begin(learner, options.steps)
        learner.train([_experience(task, task.new, NEW)], [])
    if not all(bool(torch.isfinite(weight).all()) for weight in task.network.parameters()):
        raise course.diverged()
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


class Course(SupervisedPlugin):  # type: ignore[misc]
    """The course of an experience: the learning rate falls linearly to zero over the steps, then training stops."""

    def __init__(self, task: Task, options: Naive) -> None:
        super().__init__()
        self.task, self.options = task, options
        self.step, self.steps, self.first, self.last = 0, 0, float("nan"), float("nan")

    def begin(self, learner: Any, steps: int) -> None:
        """Give the learner's next experience so many steps."""
        self.step, self.steps, self.first, self.last = 0, steps, float("nan"), float("nan")
        learner.train_epochs = steps  # an epoch has one step at least; the course ends earlier

    def diverged(self) -> TrainingFailed:
        """Say that values are not finite any more, and what to do."""
        where = f"step {self.step} of {self.steps}"
        return TrainingFailed(f"{self.options.name}: training diverged at {where}: a value is not finite",
                              hint="lower learning_rate below [adapt.options]; the champion stays")

    def before_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Set this step's learning rate."""
        for group in strategy.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * (1 - self.step / self.steps)

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        """Count the step; refuse a loss that is not finite."""
        self.step, self.last = self.step + 1, float(strategy.loss)
        if self.step == 1:
            self.first = self.last
        if not np.isfinite(self.last):
            raise self.diverged()
        if self.step >= self.steps:
            strategy.stop_training()

    def after_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Say how far it is."""
        self.task.losses.append(self.last)
        self.task.progress(self.step / self.steps, f"step {self.step} of {self.steps}, loss {self.last:.3f}")
