"""An adaptation tells what it came to, whatever those do whom it tells."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adaptd import config
from adaptd.adapt import Adaptation
from adaptd.model.attention import Adapter
from adaptd.records import Verdict
from tests.acceptance.daemon import until

LABELS = torch.tensor([0, 1])
ROWS = {"vectors": torch.zeros(2, 1), "holdout": torch.zeros(2), "targets": LABELS}
METRICS = {"training": {"numbers": {"loss": 0.5}, "seconds": 1.0, "versions": {}}, "holdout": {}, "holdout_rows": 0}


def raises(*_: object) -> None:
    raise RuntimeError("an observer of its own")


class Learned:
    """A learner and its versions, as far as an adaptation asks for them."""

    state = SimpleNamespace(version=1)

    def __init__(self) -> None:
        self.promoted: list[int] = []

    def call(self, _: object) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result((1, 2, {"label": (ROWS, {}, Adapter(), SimpleNamespace(read_into=lambda _: None))}))
        return done

    def trained_up_to(self) -> int:
        return 0

    def enter_candidate(self, *_: object) -> int:
        return 7

    def promote(self, number: int, *_: object) -> None:
        self.promoted.append(number)


class Trained(Adaptation):
    """One whose head is trained and judged already."""

    numbers: Mapping[str, Any] = METRICS["training"]["numbers"]  # type: ignore[index]

    def _head(self, *_: object) -> tuple[Verdict, dict[str, Any], bytes]:
        verdict = Verdict(decision="promote", reasons=["better"], evidence={})
        return verdict, {**METRICS, "training": {**METRICS["training"], "numbers": self.numbers}}, b""  # type: ignore[dict-item]


@pytest.fixture
def learned() -> Learned:
    return Learned()


@pytest.fixture
def reported() -> list[tuple[str, ...]]:
    return []


@pytest.fixture
def adaptation(learned: Learned, reported: list[tuple[str, ...]], tmp_path: Path) -> Trained:
    settings = config.Adapt(min_labels=2, log=["tensorboard"])
    return Trained("text", learned, learned, None, settings, tmp_path / "jobs", tmp_path / "runs", [],  # type: ignore[arg-type]
                   lambda *what: reported.append(what))


def test_a_promotion_is_told_as_one_though_its_numbers_cannot_be_logged(adaptation: Trained, learned: Learned,
                                                                       reported: list[tuple[str, ...]]) -> None:
    adaptation.numbers = {"note": "went well"}
    outcome = adaptation.start("by hand", "me").result(5.0)
    assert (outcome.verdict.decision, outcome.version, learned.promoted) == ("promote", 7, [7])
    assert adaptation.last is not None and adaptation.last["verdict"] == "promote"
    until(lambda: [code for code, *_ in reported] == ["run_not_logged"], "the log says that it lacks it")


@pytest.mark.parametrize("observer", ["on_over", "on_phase"])
def test_an_observer_that_fails_changes_nothing(adaptation: Trained, learned: Learned, observer: str) -> None:
    adaptation.settings = config.Adapt(min_labels=2)
    setattr(adaptation, observer, raises)
    assert adaptation.start("by hand", "me").result(5.0).verdict.decision == "promote"
    assert learned.promoted == [7] and adaptation.last is not None and adaptation.last["verdict"] == "promote"


def test_a_failure_is_told_though_an_observer_fails_too(adaptation: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "_head", raises)
    adaptation.on_over = raises
    with pytest.raises(RuntimeError, match="of its own"):
        adaptation.start("by hand", "me").result(5.0)
    assert adaptation.last is not None and adaptation.last["verdict"] == "failed"
