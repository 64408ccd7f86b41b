"""How an adaptation learns: the built-in strategies, as options. Avalanche holds their mathematics.

Registering them costs nothing: `import avalanche` takes ten seconds and happens in `adapt`, in the trainer process.
A further strategy of Avalanche is a few lines: a subclass that adds its plugin in `learner`, or returns its template
(`methods.py` has those that read our network in their own way).

GEM (Lopez-Paz and Ranzato, 2017) is left out: it has one constraint for each earlier experience, and an adaptation
knows one, the memory. With a single constraint GEM is A-GEM on a fixed sample, by way of a quadratic program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from adaptd.hookspecs import hookimpl

if TYPE_CHECKING:
    from adaptd.strategies.task import Task

MAY_BE_ZERO = ("memory", "learning_rate", "strength", "labels")


@dataclass(frozen=True, kw_only=True)
class Naive:
    """Learn from the new rows only."""

    name: ClassVar[str] = "naive"

    steps: int = 64  # of the optimiser: what bounds the cost, whatever the number of rows
    batch: int = 512  # rows a step, at most an eighth of all rows
    learning_rate: float = 2e-3  # at the first step; falls linearly to zero
    memory: int = 0  # remembered rows that the strategy looks at, at most

    def __post_init__(self) -> None:
        for option in fields(self):
            name, value, least = option.name, getattr(self, option.name), int(option.name not in MAY_BE_ZERO)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be a number that is not negative, not {value!r}")
            if option.type == "int" and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be a whole number, at least {least}")
            if value == 0 and least:
                raise ValueError(f"{name} must be greater than zero")

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
        from adaptd.strategies.methods import replay

        common["plugins"].append(replay(self.memory, self._divided(task, common)))
        return super().learner(task, common)

    def _divided(self, task: Task, common: dict[str, Any]) -> int:
        """Give remembered rows their share of each batch, up to half; return how many that is."""
        old, batch = min(len(task.old), self.memory), int(common["train_mb_size"])
        share = min(0.5, old / (old + len(task.new)))
        remembered = min(batch - 1, old, max(1, round(batch * share)))
        common["train_mb_size"] = batch - remembered
        return remembered


@dataclass(frozen=True, kw_only=True)
class Der(Replay):
    """Replay that also keeps the champion's answers to remembered rows (DER; Buzzega et al., 2020).

    What it keeps is the log-probabilities over all classes, which are logits up to a constant. The remembered rows'
    own labels are not used: `derpp` uses both.
    """

    name: ClassVar[str] = "der"

    strength: float = 0.1  # alpha: of the squared distance to the champion's answers

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return Avalanche's DER over our memory."""
        return self._dark(task, common, 0.0)

    def _dark(self, task: Task, common: dict[str, Any], labels: float) -> Any:
        from adaptd.strategies.methods import dark_replay

        remembered = self._divided(task, common)
        if not remembered:
            return Naive.learner(self, task, common)
        return dark_replay(common, min(len(task.old), self.memory) * task.network.classes, remembered, self.strength, labels)


@dataclass(frozen=True, kw_only=True)
class Derpp(Der):
    """Replay of the champion's answers and of labels (DER++; Buzzega et al., 2020)."""

    name: ClassVar[str] = "derpp"

    labels: float = 0.5  # beta: of the remembered rows' own loss

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return Avalanche's DER++ over our memory."""
        return self._dark(task, common, self.labels)


@dataclass(frozen=True, kw_only=True)
class ErAce(Replay):
    """Replay in which new rows compete among their batch's classes only (ER-ACE; Caccia et al., 2022).

    So new classes do not push the old ones away; to tell them from the old ones is learned from the other half of each
    batch, which is drawn from all rows.
    """

    name: ClassVar[str] = "er_ace"

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return Avalanche's ER-ACE over our memory."""
        from adaptd.strategies.methods import asymmetric_replay

        rows, half = min(len(task.old), self.memory) + len(task.new), common["train_mb_size"] // 2
        if rows == len(task.new) or not half:
            return Naive.learner(self, task, common)
        common["train_mb_size"] -= half
        return asymmetric_replay(common, rows * task.network.classes, min(half, rows))


@dataclass(frozen=True, kw_only=True)
class Lwf(Naive):
    """Learn from new rows while the champion's answers to them are kept, among the old classes (LwF; Li and Hoiem, 2016)."""

    name: ClassVar[str] = "lwf"

    memory: int = 20_000  # remembered rows that say which classes are old; none is trained on
    strength: float = 1.0  # alpha: of the divergence from the champion's answers
    temperature: float = 2.0

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's LwF."""
        from adaptd.strategies.methods import distillation

        common["plugins"].append(distillation(self.strength, self.temperature))
        return super().learner(task, common)


@dataclass(frozen=True, kw_only=True)
class Ewc(Naive):
    """Learn from new rows while the weights that old ones need are held (EWC; Kirkpatrick et al., 2017)."""

    name: ClassVar[str] = "ewc"

    memory: int = 2000  # remembered rows that the Fisher information is measured on
    strength: float = 1e5  # lambda of the penalty

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's online EWC."""
        from adaptd.strategies.methods import consolidation

        common["plugins"].append(consolidation(self.strength))
        return super().learner(task, common)


@dataclass(frozen=True, kw_only=True)
class Mas(Naive):
    """As EWC, but what is held is the weights that the answers to old rows hang on, labels aside (MAS; Aljundi et al., 2018).

    The answers whose squared norm is measured are probabilities, attention's output: the norm of their logarithms
    would be one of the classes that are least likely.
    """

    name: ClassVar[str] = "mas"

    memory: int = 2000  # remembered rows that importance is measured on
    strength: float = 100.0  # lambda of the penalty

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's MAS."""
        from adaptd.strategies.methods import awareness

        common["plugins"].append(awareness(self.strength))
        return super().learner(task, common)


@dataclass(frozen=True, kw_only=True)
class Si(Naive):
    """As EWC, but what is held is the weights by which learning the old rows got better (SI; Zenke et al., 2017).

    That is an integral along the way of learning. A champion does not keep its way, so the remembered rows are learned
    for some steps first, from the champion on; what is held is where that ends.
    """

    name: ClassVar[str] = "si"

    memory: int = 2000  # remembered rows that are learned again
    rehearsal: int = 32  # steps for that, beside `steps`
    strength: float = 10.0  # lambda of the penalty
    damping: float = 1e-3  # xi: bounds the importance of weights that hardly moved

    def adapt(self, task: Task) -> Mapping[str, float]:
        """Learn the remembered rows, then the new ones, in place; return what to log of the new ones."""
        from adaptd.strategies import avalanche

        return avalanche.train(task, self, rehearsal=self.rehearsal)

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's synaptic intelligence."""
        from adaptd.strategies.methods import intelligence

        common["plugins"].append(intelligence(self.strength, self.damping))
        return super().learner(task, common)


@dataclass(frozen=True, kw_only=True)
class Agem(Naive):
    """Learn from new rows; a gradient that would raise the loss on remembered ones loses that part (Chaudhry et al., 2019).

    The promise holds for what the optimiser is given. AdamW does not step along that, and a champion's own gradient is
    mostly noise: this was measured to forget about as much as `naive`.
    """

    name: ClassVar[str] = "agem"

    memory: int = 20_000
    sample: int = 256  # remembered rows that each step's gradient is held against

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        """Return a template with Avalanche's A-GEM over our memory."""
        from adaptd.strategies.methods import projection

        common["plugins"].append(projection(self.memory, self.sample))
        return super().learner(task, common)


@hookimpl
def register_strategies() -> Sequence[type[Naive]]:
    """Offer the built-in strategies."""
    return [Replay, Der, Derpp, ErAce, Lwf, Ewc, Mas, Si, Agem, Naive]
