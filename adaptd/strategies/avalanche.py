"""Turns a `Task` into two experiences of Avalanche's and trains on the second. Imported in the trainer process only.

The first experience holds remembered rows and is passed with no epoch, unless a strategy wants to learn them again:
after it Avalanche's plugins do what they do after any experience (fill the replay memory, measure the Fisher
information, keep the weights …). The second holds the new rows.

A training that was killed goes on in the second: the first is passed again, the batches of the steps that were taken are
drawn again and passed over, then weights, moments and random numbers are those of the place. So it gives the bytes that it
would have given.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from avalanche.benchmarks import DatasetExperience
from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from adaptd.errors import TrainingFailed
from adaptd.strategies.task import Place

if TYPE_CHECKING:
    from adaptd.strategies import Naive
    from adaptd.strategies.task import Task

WEIGHT_DECAY = 1e-2
REMEMBERED, NEW = 0, 1  # the experiences' numbers
KEEP_S = 2.0  # between two places that are kept: what a kill costs
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW knows of a weight


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
        course.begin(learner, options.steps, task.found)
        learner.train([_experience(task, task.new, NEW)], [])
    if not all(bool(torch.isfinite(weight).all()) for weight in task.network.parameters()):
        raise course.diverged()
    return {"steps": course.step, "loss_first": course.first, "loss_last": course.last,
            "resumed_at": int(task.found.facts.get("step", 0))}


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
        self.place: Place | None = None  # of an experience that is kept; None: of one that is passed again
        self.kept = time.monotonic()

    def begin(self, learner: Any, steps: int, place: Place | None = None) -> None:
        """Give the learner's next experience so many steps; one with a place goes on from there."""
        self.step, self.steps, self.first, self.last = 0, steps, float("nan"), float("nan")
        self.place = place
        learner.train_epochs = steps  # an epoch has one step at least; the course ends earlier

    @property
    def taken(self) -> int:
        """How many steps were taken before the process was killed."""
        return 0 if self.place is None else int(self.place.facts.get("step", 0))

    def diverged(self) -> TrainingFailed:
        """Say that values are not finite any more, and what to do."""
        where = f"step {self.step} of {self.steps}"
        return TrainingFailed(f"{self.options.name}: training diverged at {where}: a value is not finite",
                              hint="lower learning_rate below [adapt.options]; the champion stays")

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Pass over what was learned before."""
        if self.step < self.taken:
            passing = [one.pass_over for one in (strategy, *strategy.plugins) if hasattr(one, "pass_over")]
            strategy.dataloader = _Onward(strategy.dataloader, self, strategy, passing)

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Take up weights, moments, random numbers and figures of the place."""
        assert self.place is not None
        tensors, facts, network = self.place.tensors, self.place.facts, self.task.network
        with torch.no_grad():
            for name, weight in network.named_parameters():
                weight.copy_(tensors[name])
                optimizer.state[weight] = {key: tensors[f"{name}/{key}"].to(weight.device if key != "step" else "cpu")
                                           for key in MOMENTS}
        network.generator.set_state(tensors["generator"])
        self.first, self.last, self.task.losses[:] = facts["first"], facts["last"], facts["losses"]

    def keep(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep where the training has come to."""
        tensors = {"generator": self.task.network.generator.get_state()}
        for name, weight in self.task.network.named_parameters():
            tensors |= {name: weight.detach().cpu()}
            tensors |= {f"{name}/{key}": optimizer.state[weight][key].cpu() for key in MOMENTS}
        self.task.keep(Place(tensors=tensors, facts={"step": self.step, "first": self.first, "last": self.last,
                                                     "losses": self.task.losses}))
        self.kept = time.monotonic()

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
        elif self.place is not None and time.monotonic() - self.kept >= KEEP_S:
            self.keep(strategy.optimizer)

    def after_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Say how far it is."""
        if self.last != self.last:  # it was passed over
            return
        self.task.losses.append(self.last)
        self.task.progress(self.step / self.steps, f"step {self.step} of {self.steps}, loss {self.last:.3f}")


class _Onward:
    """A learner's batches from the place on; those before it are drawn, and what would have been drawn beside them."""

    def __init__(self, loader: Iterable[Any], course: Course, strategy: Any, passing: Sequence[Callable[[], None]]) -> None:
        self._loader, self._course, self._strategy, self._passing = loader, course, strategy, passing

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._course.step >= self._course.taken:
                yield batch
                continue
            for draw in self._passing:
                draw()
            self._course.step += 1
            if self._course.step == self._course.taken:
                self._course.restore(self._strategy.optimizer)
