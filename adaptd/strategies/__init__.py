"""How an adaptation learns: the built-in strategies, as options. Avalanche holds their mathematics.

Registering them costs nothing: `import avalanche` takes ten seconds and happens in `adapt`, in the trainer process.
A further strategy of Avalanche is a few lines: a subclass that adds its plugin in `learner`, or returns its template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Strategy

if TYPE_CHECKING:
    from adaptd.strategies.task import Task


@dataclass(frozen=True, kw_only=True)
class Naive:
    """Learn from the new rows only."""

    name: ClassVar[str] = "naive"

    steps: int = 64  # of the optimiser: what bounds the cost, whatever the number of rows
    batch: int = 512  # rows a step, at most an eighth of all rows
    learning_rate: float = 2e-3  # at the first step; falls linearly to zero
    memory: int = 0  # remembered rows that the strategy looks at, at most

    def __post_init__(self) -> None:
        for option, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{option} must be a number that is not negative, not {value!r}")
        for option in ("steps", "batch", "memory"):
            if not isinstance(getattr(self, option), int) or getattr(self, option) < (option != "memory"):
                raise ValueError(f"{option} must be a whole number, at least {int(option != 'memory')}")

    def adapt(self, task: Task) -> Mapping[str, float]:
        """Train the task's network in place; return what to log."""
        from adaptd.strategies import avalanche

        return avalanche.train(task, self)

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return the Avalanche template that trains; `common` are its constructor's arguments."""
        from avalanche.training.templates import SupervisedTemplate

        return SupervisedTemplate(**common)


@dataclass(frozen=True, kw_only=True)
class Replay(Naive):
    """Learn from new rows mixed with remembered ones (Chaudhry et al., 2019): up to half of each batch."""

    name: ClassVar[str] = "replay"

    memory: int = 20_000  # as many as 64 steps can show

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's replay over our memory."""
        from adaptd.strategies.avalanche import replay

        old, new = len(task.old), len(task.new)
        share = min(0.5, old / (old + new))
        remembered = min(common["train_mb_size"] - 1, max(1, round(common["train_mb_size"] * share))) if old else 0
        common["train_mb_size"] -= remembered
        common["plugins"].append(replay(self.memory, remembered))
        return super().learner(task, common)


@dataclass(frozen=True, kw_only=True)
class Ewc(Naive):
    """Learn from new rows while the weights that old ones need are held (EWC; Kirkpatrick et al., 2017)."""

    name: ClassVar[str] = "ewc"

    memory: int = 2000  # remembered rows that the Fisher information is measured on
    strength: float = 1e5  # lambda of the penalty

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's online EWC."""
        from adaptd.strategies.avalanche import consolidation

        common["plugins"].append(consolidation(self.strength))
        return super().learner(task, common)


@hookimpl
def register_strategies() -> Iterable[type[Strategy]]:
    """Offer the built-in strategies."""
    return [Replay, Ewc, Naive]
