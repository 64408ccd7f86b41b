"""An adaptation tells what it came to, whatever those do whom it tells."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adaptd import config, heads
from adaptd.adapt import Adaptation
from adaptd.errors import Conflict
from adaptd.gate import NotWorse
from adaptd.model.attention import Adapter
from adaptd.records import Verdict
from tests.acceptance.daemon import until

LABELS = torch.tensor([0, 1])
ROWS = {"vectors": torch.zeros(2, 1), "holdout": torch.zeros(2), "targets": LABELS, "fresh": torch.ones(2)}
FACTS = {"kind": heads.facts(heads.Classify())}
METRICS = {"training": {"numbers": {"loss": 0.5}, "seconds": 1.0, "versions": {}}, "holdout": {}, "holdout_rows": 0}


def raises(*_: object) -> None:
    raise RuntimeError("an observer of its own")


class Learned:
    """A learner and its versions, as far as an adaptation asks for them."""

    state = SimpleNamespace(version=1, heads={"label": SimpleNamespace(options=SimpleNamespace(generates=False, adapts=True))})

    def __init__(self) -> None:
        self.promoted: list[int] = []

    def call(self, _: object) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result((1, 2, {"label": (ROWS, FACTS, Adapter(), SimpleNamespace(read_into=lambda _: None))}))
        return done

    def trained_up_to(self) -> int:
        return 0

    def tried(self) -> list[Any]:
        return []

    def tries(self, _: str) -> list[int]:
        return []

    def labels_since(self, seq: int) -> int:
        return seq

    def note(self, what: str, _actor: str, _reason: str, *, detail: Mapping[str, Any] | None = None) -> None:
        self.noted = what, detail

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


def test_a_trial_that_fails_is_noted_with_its_source_and_the_others_without(adaptation: Trained, learned: Learned) -> None:
    def trial(*_: object) -> Any:
        adaptation.trying = {"source": "weak:rules"}
        raise RuntimeError("broken")

    for start, noted in ((lambda: adaptation.start_other("weak", trial, "", "me"), ("weak-failed", {"source": "weak:rules"})),
                         (lambda: adaptation.start_other("adapt", raises, "", "me"), ("adapt-failed", None))):
        with pytest.raises(RuntimeError):
            start().result(5.0)
        assert learned.noted == noted


def test_where_what_writes_texts_is_not_trained_there_is_nothing_to_adapt(
        adaptation: Trained, learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SimpleNamespace(generates=True, adapts=False)
    monkeypatch.setattr(learned, "state", SimpleNamespace(version=1, heads={"label": SimpleNamespace(options=options)}))
    with pytest.raises(Conflict, match="nothing to adapt"):
        adaptation.start("by hand", "me")


@pytest.mark.parametrize(("lost", "decision"), [(0.05, "promote"), (0.9, "undecided")])
def test_texts_are_won_by_the_better_one_and_none_go_live_that_are_worse_by_more(
        adaptation: Trained, lost: float, decision: str) -> None:
    adaptation.gate = NotWorse()
    champion = torch.full((200,), 0.9, dtype=torch.float64)
    candidate = torch.where(torch.arange(200) < 40, champion - lost, champion + 0.02)
    scores = {"rows": torch.arange(200), "candidate": candidate, "champion": champion,
              "nearer": torch.sign(candidate - champion).long()}
    facts = {"labels": ["text"], "kind": heads.facts(heads.Generate(trainable=True))}
    verdict, metrics = adaptation._judge("label", {"targets": torch.zeros(200, dtype=torch.int64)}, facts, scores)
    assert verdict.decision == decision and verdict.evidence["discordant"] == {"better": 160, "worse": 40}
    assert metrics["holdout"] == {"champion": pytest.approx(0.9), "candidate": pytest.approx(float(candidate.mean()))}
    assert ("its mean score is lower" in verdict.reasons[0]) == (decision == "undecided")
