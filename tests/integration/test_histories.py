"""Histories that went wrong once, told without hypothesis."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.live import Json, Live

ASKED = ("card", "rain", "song", "soup")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "store") as life:
        life.verdict = "promote"
        yield life


def teach(live: Live, *labelled: tuple[str, str], source: str = "crm") -> list[str]:
    events = [{"text": text, "label": label, "source": source} for text, label in labelled]
    found: list[str] = live.do(live.service.events("text", events, source="http"))["events"]
    return found


def back(live: Live, to: int | None = None, at: float | None = None) -> Json:
    done = live.do(live.service.rollback("text", to=to, at=at, reason="", actor="m", and_replay=False, except_sources=()))
    live.do(live.service.resume("text", what="learning", source="", drop=False, reason="", actor="m"))
    return done


def promoted(live: Live) -> int:
    done = live.do(live.service.adapt("text", wait=True, actor="m"))
    assert done["verdict"] == "promote"
    return int(done["version"])


def forget(live: Live, event: str) -> Json:
    return live.do(live.service.forget("text", selector={"event": event}, reason="", actor="m"))["versions"]


def test_a_moment_after_a_forget_that_retired_what_was_live_can_be_gone_back_to(live: Live) -> None:
    """The pointer had moved without a line of its own, and the retired version was looked for."""
    events = teach(live, ("card", "a"), ("rain", "b"), ("song", "a"))
    retired = promoted(live)
    moved = forget(live, events[0])
    assert moved["before"] == retired != moved["live"]
    at, answers = time.time(), live.answers(ASKED)
    teach(live, ("soup", "c"))
    done = back(live, at=at)
    assert live.service.status()["domains"]["text"]["memory"] == 2
    assert [label for label, _ in live.answers(ASKED)] == [label for label, _ in answers]
    assert live.do(live.service.version("text", done["version"]))["parent"] == moved["live"]


def test_a_version_that_answers_for_a_retired_one_lends_its_adapter_and_not_its_head(live: Live, tmp_path: Path) -> None:
    """It was saved on another branch: its ridge and labels are of other rows, and a start without checkpoints took them."""
    teach(live, ("card", "a"), ("rain", "b"))
    other = back(live, to=1)["saved"]
    rows = teach(live, ("song", "c"), ("soup", "d"), ("song soup", "d"))
    candidate = promoted(live)
    back(live, to=other)
    lent = back(live, to=candidate)["saved"]  # what answered on the other branch
    assert forget(live, rows[2])["live"] == lent
    answers = live.answers(ASKED)
    assert {label for label, _ in answers} == {"c", "d"}
    left = live.died(tmp_path / "left")
    shutil.rmtree(left / "checkpoints")
    with Live(left) as again:
        assert again.served.learner.state.heads["label"].labels == ["c", "d"]
        for (label, scores), (then, before) in zip(again.answers(ASKED), answers, strict=True):
            assert label == then and scores == pytest.approx(before, abs=1e-5)


def test_folds_of_a_forget_are_made_again_where_its_checkpoint_is_gone(live: Live, tmp_path: Path) -> None:
    """No version has folds for the rows that are left: a start without the checkpoint, or a rollback, counted from nothing."""
    teach(live, ("card", "a"), ("rain", "b"))
    asked = [live.do(live.service.predict("text", [{"text": word}], source="http", explain=False,
                                         min_seq=None, actor="m"))["predictions"][0]["event"]
             for word in ("card", "rain", "song")]
    live.do(live.service.feedback("text", [{"event": one, "label": "a"} for one in asked], source="http"))
    named = live.do(live.service.snapshot("text", reason="", actor="m"))["version"]
    forget(live, asked[0])
    before = live.served.learner.state.prequential.facts()
    assert before["total"] == 2
    left = live.died(tmp_path / "left")
    shutil.rmtree(left / "checkpoints")
    with Live(left) as again:
        again.served.learner.call(lambda: None).result(60)
        assert again.served.learner.state.prequential.facts() == before
        back(again, to=named)
        assert again.served.learner.state.prequential.facts() == before
