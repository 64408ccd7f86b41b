"""The built-in strategies: they learn, they keep, they are reproducible, and they say when they fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from adaptd import plugins
from adaptd.errors import BadConfig, TrainingFailed
from adaptd.interfaces import Strategy
from adaptd.model import files
from adaptd.model.attention import Adapter, TrainableAttention, principal
from adaptd.strategies import Ewc, Naive, Replay
from tests.model.check_strategy import CLASSES, check_strategy, gaussians, loss_of, make_task


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("strategy", [Replay(), Ewc(), Naive()], ids=lambda s: s.name)
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


def _moved(strategy: Naive) -> float:
    task = make_task(80, *gaussians(40))
    start = task.network.projection.detach().clone()
    strategy.adapt(task)
    return float((task.network.projection.detach() - start).norm())


def test_the_penalty_of_ewc_holds_the_weights() -> None:
    free, none, held = _moved(Naive()), _moved(Ewc(strength=0.0)), _moved(Ewc(strength=1e7))
    assert none == pytest.approx(free, rel=0.1)
    assert held < 0.5 * free


def test_the_first_adaptation_has_no_old_rows() -> None:
    for strategy in (Replay(), Ewc()):
        memory = gaussians(20)
        task = make_task(len(memory[1]), *memory)
        strategy.adapt(task)
        assert loss_of(task.network.adapter(), gaussians(50, seed=1), memory)[1] > 0.8


@pytest.mark.parametrize("each", [1, 40])
def test_one_class_or_one_example_is_no_crash(each: int) -> None:
    task = make_task(each, *gaussians(each, classes=1))
    numbers = Replay(steps=5).adapt(task)
    assert numbers["steps"] == 5
    files.parse_adapter(files.dump_adapter(task.network.adapter()), "adapter")


def test_a_single_new_example_beside_many_old_ones() -> None:
    task = make_task(1, *gaussians(40))
    assert Replay().adapt(task)["steps"] == 64


def test_rare_classes_survive_many_rows_of_one() -> None:
    vectors, targets = gaussians(60)
    kept = (targets == 0) | (torch.arange(len(targets)) % 12 == 0)
    task = make_task(30, vectors[kept], targets[kept])
    Replay().adapt(task)
    said = loss_of(task.network.adapter(), gaussians(50, seed=1), (vectors[kept], targets[kept]))
    assert said[1] > 0.7


def test_values_that_are_not_finite_fail_in_words() -> None:
    vectors, targets = gaussians(20)
    vectors[5] = float("nan")
    with pytest.raises(TrainingFailed, match="replay: training diverged at step 1 of 64"):
        Replay().adapt(make_task(60, vectors, targets))


def test_a_learning_rate_that_explodes_fails_in_words() -> None:
    with pytest.raises(TrainingFailed, match="diverged") as caught:
        Replay(learning_rate=1e30).adapt(make_task(60, *gaussians(20)))
    assert "learning_rate" in caught.value.hint


def test_the_number_of_steps_bounds_the_cost_whatever_the_number_of_rows() -> None:
    for new in (1, 100, 240):
        task = make_task(new, *gaussians(40))
        assert Replay(steps=7, batch=16).adapt(task)["steps"] == 7


def test_wrong_options_are_named() -> None:
    with pytest.raises(BadConfig, match="adapt.options.step: unknown option"):
        plugins.build(Replay, {"step": 3}, "adapt.options")
    with pytest.raises(BadConfig, match="steps must be a whole number"):
        plugins.build(Replay, {"steps": 0}, "adapt.options")
    with pytest.raises(BadConfig, match="learning_rate must be a number"):
        plugins.build(Ewc, {"learning_rate": "fast"}, "adapt.options")


def test_registering_imports_no_avalanche() -> None:
    code = ("import sys; from adaptd import plugins;"
            "found = plugins.collect(plugins.load('adaptd.learner', []), 'register_strategies');"
            "assert {'replay', 'ewc', 'naive'} <= set(found); assert 'avalanche' not in sys.modules")
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
