"""Avalanche's plugins and templates, where our network or our two experiences want them otherwise.

A forward takes row numbers and returns log-probabilities [b, classes]; as logits they are right, softmax gives them
back. Imported in the trainer process only.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from avalanche.training.plugins import (
    AGEMPlugin,
    EWCPlugin,
    LwFPlugin,
    MASPlugin,
    ReplayPlugin,
    SupervisedPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer
from avalanche.training.supervised.der import DER
from avalanche.training.supervised.er_ace import ER_ACE
from avalanche.training.utils import ParamData
from torch import Tensor

from adaptd.model.attention import TrainableAttention
from adaptd.strategies.avalanche import REMEMBERED

MEASURED_BATCH = 32  # importance is taken of a batch's mean gradient: the smaller, the closer to that of each row


class _OfMemory(SupervisedPlugin):  # type: ignore[misc]
    """What a method does after an experience is done after the remembered rows alone: the run ends with the new ones."""

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience == REMEMBERED:
            strategy.train_mb_size, batch = MEASURED_BATCH, strategy.train_mb_size
            super().after_training_exp(strategy, **kwargs)
            strategy.train_mb_size = batch


# -- rows are shown again -------------------------------------------------------------------------------------


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


class _DarkReplay(DER):  # type: ignore[misc]
    """Avalanche's DER; keeps the champion's answers to remembered rows, none to the new ones."""

    def _after_training_exp(self, **kwargs: Any) -> None:
        if self.experience.current_experience == REMEMBERED:
            super()._after_training_exp(**kwargs)

    def pass_over(self) -> None:
        _draw(self.replay_loader)


def _draw(loader: Any) -> None:
    """Draw what a step that is passed over drew; a learner without remembered rows has no loader."""
    if loader is not None:
        next(loader)


def dark_replay(common: dict[str, Any], room: int, batch: int, strength: float, labels: float) -> Any:
    """Return Avalanche's DER or, with a weight for labels, DER++ that draws `batch` rows a step.

    Its buffer is divided by class; with `room` for all rows in each class it keeps what we remember as it is.
    """
    return _DarkReplay(**common, mem_size=room, batch_size_mem=batch, alpha=strength, beta=labels)


class _ByClass(ClassBalancedBuffer):  # type: ignore[misc]
    """Avalanche's buffer; filled by the call that is not deprecated."""

    def update(self, strategy: Any, **_: Any) -> None:
        self.post_adapt(strategy, strategy.experience)


class _Asymmetric(ER_ACE):  # type: ignore[misc]
    """Avalanche's ER-ACE."""

    def pass_over(self) -> None:
        _draw(self.replay_loader)


def asymmetric_replay(common: dict[str, Any], room: int, batch: int) -> Any:
    """Return Avalanche's ER-ACE that draws `batch` rows a step from remembered and new ones; `room` as for DER."""
    learner = _Asymmetric(**common, mem_size=room, batch_size_mem=batch)
    learner.storage_policy = _ByClass(room)
    return learner


# -- answers are kept -----------------------------------------------------------------------------------------


class _Champion:
    """The network with the weights of now, without dropout; rows are the same tensors, not a copy."""

    def __init__(self, network: TrainableAttention) -> None:
        self._network = network
        self._weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    def __call__(self, rows: Tensor) -> Tensor:
        self._network.eval()
        said: Tensor = torch.func.functional_call(self._network, self._weights, (rows,))
        self._network.train()
        return said


class _Distillation(LwFPlugin):  # type: ignore[misc]
    """Avalanche's LwF; its teacher would be a copy of the network with all rows, in training mode."""

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        if strategy.experience.current_experience == REMEMBERED:
            self.lwf.post_adapt(SimpleNamespace(model=None), strategy.experience)  # notes which classes are old
            self.lwf.prev_model = _Champion(strategy.model)


def distillation(strength: float, temperature: float) -> SupervisedPlugin:
    """Return Avalanche's learning without forgetting."""
    return _Distillation(alpha=strength, temperature=temperature)


# -- weights are held -----------------------------------------------------------------------------------------


class _Consolidation(_OfMemory, EWCPlugin):  # type: ignore[misc]
    """Avalanche's EWC."""


def consolidation(strength: float) -> SupervisedPlugin:
    """Return Avalanche's online EWC."""
    return _Consolidation(ewc_lambda=strength, mode="online", decay_factor=1.0)


class _Awareness(_OfMemory, MASPlugin):  # type: ignore[misc]
    """Avalanche's MAS, on probabilities; an experience without remembered rows has nothing to hold."""

    def _get_importance(self, strategy: Any) -> Any:
        hook = strategy.model.register_forward_hook(lambda _network, _rows, said: said.exp())
        try:
            return super()._get_importance(strategy)
        finally:
            hook.remove()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if float(strategy.loss) != 0.0:  # Avalanche takes a loss of exactly zero for none
            super().before_backward(strategy, **kwargs)


def awareness(strength: float) -> SupervisedPlugin:
    """Return Avalanche's memory aware synapses."""
    return _Awareness(lambda_reg=strength)


class _Intelligence(SynapticIntelligencePlugin):  # type: ignore[misc]
    """Avalanche's SI, made right in three points.

    On a CPU it keeps views of the weights where it means copies of them, so no weight seems to move. Its bound of 0.001
    on importance is one that nearly all our weights reach. And negative importance is none: a weight along which the
    loss rose would be pushed away from where it is, without end.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        _own(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, **kwargs)
        _own(self.syn_data["old_theta"])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience == REMEMBERED:
            self.update_ewc_data(strategy.model, self.ewc_data, self.syn_data, float("inf"), self.excluded_parameters, 1.0,
                                 self.eps)
            for importance in self.ewc_data[1].values():
                importance.data = importance.data.clamp(min=0.0)


def _own(kept: dict[str, ParamData]) -> None:
    for one in kept.values():
        one.data = one.data.clone()


def intelligence(strength: float, damping: float) -> SupervisedPlugin:
    """Return Avalanche's synaptic intelligence."""
    return _Intelligence(si_lambda=strength, eps=damping)


# -- gradients are held against memory ------------------------------------------------------------------------


class _Projection(_OfMemory, AGEMPlugin):  # type: ignore[misc]
    """Avalanche's A-GEM."""

    def pass_over(self) -> None:
        if self.buffers:
            self.sample_from_memory()


def projection(memory: int, sample: int) -> SupervisedPlugin:
    """Return Avalanche's A-GEM with so many rows of our memory a step."""
    return _Projection(patterns_per_experience=memory, sample_size=sample)
