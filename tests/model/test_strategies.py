"""The built-in strategies: they learn, they keep, they are reproducible, and they say when they fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin

from adaptd import plugins
from adaptd.errors import BadConfig, TrainingFailed
from adaptd.interfaces import Strategy
from adaptd.model import files
from adaptd.model.attention import Adapter, TrainableAttention, principal
from adaptd.strategies import Agem, Der, Derpp, ErAce, Ewc, Lwf, Mas, Naive, Replay, Si, register_strategies
from adaptd.strategies.task import Place, Task
from tests.model.check_strategy import CLASSES, check_strategy, gaussians, loss_of, lost_and_learned, make_task

EVERY = [chosen() for chosen in register_strategies()]
KEEPING = [Replay, Der, Derpp, ErAce, Lwf, Ewc, Mas, Si]  # all but `naive`, and `agem`, which was not seen to
HASTY: dict[str, Any] = {"learning_rate": 1e-2, "steps": 128}  # so much that `naive` forgets


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_a_strategy_learns_reports_and_is_reproducible(strategy: Strategy) -> None:
    check_strategy(strategy)


def test_replay_keeps_old_classes_while_new_ones_come() -> None:
    memory, asked = gaussians(40), gaussians(50, seed=1)
    old = memory[1] < 4
    task = make_task(int(old.sum()), memory[0][old], memory[1][old])
    Replay().adapt(task)
    champion = task.network.adapter()
    kept = asked[1] < 4
    before = loss_of(champion, (asked[0][kept], asked[1][kept]), memory)[1]
    task = make_task(80, *memory, start=champion)
    Replay().adapt(task)
    candidate = task.network.adapter()
    assert loss_of(candidate, (asked[0][kept], asked[1][kept]), memory)[1] >= before - 0.02
    assert loss_of(candidate, (asked[0][~kept], asked[1][~kept]), memory)[1] > 0.9


@pytest.mark.parametrize("chosen", KEEPING, ids=lambda s: s.name)
def test_a_strategy_loses_less_of_what_is_old_than_naive_does_and_learns_what_is_new(chosen: type[Naive]) -> None:
    free = [lost_and_learned(Replay(), Naive(**HASTY), seed) for seed in range(3)]
    kept = [lost_and_learned(Replay(), chosen(**HASTY), seed) for seed in range(3)]
    assert sum(lost for lost, _ in kept) < 0.5 * sum(lost for lost, _ in free)  # measured: 0.3 (lwf) and less
    assert all(learned > 0 for _, learned in kept)


def _moved(strategy: Naive) -> float:
    task = make_task(80, *gaussians(40))
    start = task.network.projection.detach().clone()
    strategy.adapt(task)
    return float((task.network.projection.detach() - start).norm())


def test_the_penalty_of_ewc_holds_the_weights() -> None:
    free, none, held = _moved(Naive()), _moved(Ewc(strength=0.0)), _moved(Ewc(strength=1e7))
    assert none == pytest.approx(free, rel=0.1)
    assert held < 0.5 * free


@pytest.mark.parametrize("weak, strong", [(Lwf(strength=0.0), Lwf(strength=100.0)), (Mas(strength=0.0), Mas(strength=1e3)),
                                          (Der(strength=0.0), Der(strength=100.0)), (Si(strength=0.0), Si(strength=1e3))],
                         ids=lambda s: s.name)
def test_the_stronger_it_keeps_the_less_is_learned_and_lost(weak: Naive, strong: Naive) -> None:
    lost, learned = lost_and_learned(Replay(), replace(weak, **HASTY), 0)
    less_lost, less_learned = lost_and_learned(Replay(), replace(strong, **HASTY), 0)
    assert less_lost < lost and less_learned < learned


@pytest.mark.parametrize("chosen", [Lwf, Der])
def test_a_champion_agrees_with_itself_row_by_row(chosen: type[Der] | type[Lwf]) -> None:
    first = []
    for strength in (0.0, 1000.0):
        task = make_task(80, *gaussians(40))
        task.network.dropout = 0.0  # with all rows as keys: nothing is left to chance
        first.append(chosen(strength=strength).adapt(task)["loss_first"])
    assert first[0] == pytest.approx(first[1], abs=0.01)


def test_er_ace_learns_new_classes_among_themselves_and_all_from_memory() -> None:
    task = make_task(80, *gaussians(40))
    alone = ErAce().adapt(task)["loss_first"]
    task = make_task(40, *gaussians(40))  # one new class: nothing competes with it in its half of the batch
    assert ErAce().adapt(task)["loss_first"] < alone


class Watch(SupervisedPlugin):  # type: ignore[misc]
    """Notes at each step how far the gradient agrees with the one of memory."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.projection, self.agreed = projection, list[float]()

    def after_backward(self, strategy: Any, **_: Any) -> None:
        now = torch.cat([weight.grad.view(-1) for weight in strategy.model.parameters()])
        if (of_memory := self.projection.reference_gradients).numel():
            self.agreed.append(float(torch.nn.functional.cosine_similarity(now, of_memory, dim=0)))


class WatchedAgem(Agem):
    """A-GEM with a watch before it and one after it."""

    watches: list[Watch] = []

    def learner(self, task: Task, common: dict[str, Any]) -> Any:
        learner = super().learner(task, common)
        projection = next(plugin for plugin in learner.plugins if hasattr(plugin, "reference_gradients"))
        self.watches[:] = [Watch(projection), Watch(projection)]
        place = learner.plugins.index(projection)
        learner.plugins[place:place + 1] = [self.watches[0], projection, self.watches[1]]
        return learner


def test_no_gradient_of_a_gem_stands_against_memory() -> None:
    WatchedAgem().adapt(make_task(80, *gaussians(40)))
    raw, given = (watch.agreed for watch in WatchedAgem.watches)
    assert len(raw) == len(given) == 64
    assert min(raw) < -0.01, "some would have"
    assert min(given) > -1e-4


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_the_first_adaptation_has_no_old_rows(strategy: Strategy) -> None:
    memory = gaussians(20)
    task = make_task(len(memory[1]), *memory)
    strategy.adapt(task)
    assert loss_of(task.network.adapter(), gaussians(50, seed=1), memory)[1] > 0.8


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
@pytest.mark.parametrize("each, new", [(1, 1), (40, 40), (2, 1), (40, 1)])
def test_one_class_or_one_example_is_no_crash(strategy: Naive, each: int, new: int) -> None:
    task = make_task(new, *gaussians(each, classes=1))
    assert replace(strategy, steps=5).adapt(task)["steps"] == 5
    files.parse_adapter(files.dump_adapter(task.network.adapter()), "adapter")


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_noise_is_no_crash(strategy: Naive) -> None:
    vectors, targets = gaussians(40)
    task = make_task(80, vectors, targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))])
    assert all(value == value for value in replace(strategy, steps=8).adapt(task).values())
    files.parse_adapter(files.dump_adapter(task.network.adapter()), "adapter")


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_a_single_new_example_beside_many_old_ones_and_many_beside_a_single_old_one(strategy: Strategy) -> None:
    assert strategy.adapt(make_task(1, *gaussians(40)))["steps"] == 64
    assert strategy.adapt(make_task(239, *gaussians(40)))["steps"] == 64


@pytest.mark.parametrize("strategy", [s for s in EVERY if s.memory], ids=lambda s: s.name)
def test_without_memory_a_strategy_is_naive(strategy: Naive) -> None:
    adapters = []
    for one in (replace(strategy, memory=0), Naive()):
        task = make_task(80, *gaussians(40))
        one.adapt(task)
        adapters.append(files.dump_adapter(task.network.adapter()))
    assert adapters[0] == adapters[1]


def test_rare_classes_survive_many_rows_of_one() -> None:
    vectors, targets = gaussians(60)
    kept = (targets == 0) | (torch.arange(len(targets)) % 12 == 0)
    task = make_task(30, vectors[kept], targets[kept])
    Replay().adapt(task)
    said = loss_of(task.network.adapter(), gaussians(50, seed=1), (vectors[kept], targets[kept]))
    assert said[1] > 0.7


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_values_that_are_not_finite_fail_in_words(strategy: Strategy) -> None:
    vectors, targets = gaussians(20)
    vectors[5] = float("nan")
    with pytest.raises(TrainingFailed, match=rf"^{strategy.name}: training diverged at step 1 of"):
        strategy.adapt(make_task(60, vectors, targets))


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_a_learning_rate_that_explodes_fails_in_words(strategy: Naive) -> None:
    with pytest.raises(TrainingFailed, match="diverged") as caught:
        replace(strategy, learning_rate=1e30).adapt(make_task(60, *gaussians(20)))
    assert "learning_rate" in caught.value.hint


def test_the_number_of_steps_bounds_the_cost_whatever_the_number_of_rows() -> None:
    for new in (1, 100, 240):
        task = make_task(new, *gaussians(40))
        assert Replay(steps=7, batch=16).adapt(task)["steps"] == 7


@pytest.mark.parametrize("chosen, options, words", [
    (Replay, {"step": 3}, "adapt.options.step: unknown option"), (Replay, {"steps": 0}, "steps must be a whole number"),
    (Ewc, {"learning_rate": "fast"}, "learning_rate must be a number"), (Lwf, {"temperature": 0}, "temperature must be greater"),
    (Lwf, {"strength": float("nan")}, "strength must be a number"), (Si, {"rehearsal": 0}, "rehearsal must be a whole number"),
    (Si, {"damping": 0.0}, "damping must be greater"), (Mas, {"strength": -1}, "strength must be a number"),
    (Agem, {"sample": 0.5}, "sample must be a whole number"), (Der, {"labels": 1}, "adapt.options.labels: unknown option"),
    (Derpp, {"labels": True}, "labels must be a number"), (ErAce, {"memory": 1.5}, "memory must be a whole number"),
])
def test_wrong_options_are_named(chosen: type[Strategy], options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        plugins.build(chosen, options, "adapt.options")


def test_registering_imports_no_avalanche() -> None:
    code = ("import sys; from adaptd import plugins;"
            "found = plugins.collect(plugins.load('adaptd.learner', []), 'register_strategies');"
            f"assert {[strategy.name for strategy in EVERY]} == list(found); assert 'avalanche' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_row_does_not_attend_to_itself() -> None:
    vectors, _ = gaussians(2, classes=2)
    network = TrainableAttention(vectors, torch.tensor([0, 1, 1, 1]), CLASSES, Adapter(), [""] * CLASSES, 16, 100, 0.0,
                                 torch.Generator().manual_seed(0)).eval()
    assert float(network(torch.tensor([0])).exp()[0, 0]) < 1e-5  # the only row of class 0 finds others only


def test_the_unadapted_start_is_pca_in_blocks() -> None:
    vectors = torch.cat([gaussians(700, seed=s)[0] for s in range(2)])
    whole = torch.linalg.eigh(vectors.double().T @ vectors.double())[1].flip(1)[:, :8].float()
    assert torch.allclose(principal(vectors, 8).abs(), whole.abs(), atol=1e-5)


@pytest.mark.gpu
def test_it_trains_on_cuda() -> None:
    task = make_task(80, *gaussians(40))
    network = task.network.to("cuda")
    before = network.projection.detach().clone()
    Replay().adapt(replace(task, device="cuda"))
    assert not torch.equal(before, network.projection.detach())


class Killed(Exception):
    """The process ended here."""


@pytest.mark.parametrize("strategy", EVERY, ids=lambda s: s.name)
def test_a_training_that_was_killed_goes_on_to_the_same_bytes(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptd.strategies.avalanche.KEEP_S", 0.0)
    memory, places = gaussians(40), list[Place]()

    def keep(place: Place) -> None:
        places.append(Place(tensors={name: one.clone() for name, one in place.tensors.items()},
                            facts={**place.facts, "losses": list(place.facts["losses"])}))
        if len(places) == 23:  # some epochs are over, and one is not
            raise Killed

    whole = make_task(80, *memory)
    strategy.adapt(whole)
    with pytest.raises(Killed):
        strategy.adapt(replace(make_task(80, *memory), keep=keep))
    goes_on = replace(make_task(80, *memory), found=places[-1])
    numbers = strategy.adapt(goes_on)
    assert numbers["resumed_at"] == 23 and goes_on.losses == whole.losses
    assert files.dump_adapter(goes_on.network.adapter()) == files.dump_adapter(whole.network.adapter())
