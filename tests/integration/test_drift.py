"""Labels that change their meaning, on a real store: the remembered examples follow, history says so, a rollback undoes it."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from adaptd import tables as t
from adaptd.registry import live as pointer
from adaptd.rows import counts, lineage
from tests.integration.live import SETTINGS, Json, Live

WORDS = {"card": "card lost stolen bank pin visa", "rain": "rain snow wind cloud storm sun"}
ASKED = ("lost card", "bank pin", "storm cloud", "rain and snow")
AS_EVER, SWAPPED = {"card": "a", "rain": "b"}, {"card": "b", "rain": "a"}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "store") as life:
        yield life


def teach(live: Live, called: dict[str, str], events: int, seed: int) -> list[str]:
    """Teach texts about cards and rain, two in a request; return the events."""
    chooser, found = random.Random(seed), []
    for _ in range(events // 2):
        items = [{"text": " ".join(chooser.sample(WORDS[topic].split(), 3)) + f" {chooser.randrange(99)}", "label": label,
                  "source": "desk"} for topic, label in called.items()]
        found += live.do(live.service.events("text", items, source="http"))["events"]
        live.served.learner.call(lambda: None).result(60)  # what it found has come, and is solved
    return found


def history(live: Live) -> list[Any]:
    with live.parts.reader.connect() as connection:
        return list(connection.execute(select(t.action).where(t.action.c.what == "drift").order_by(t.action.c.id)))


def remembered(live: Live) -> Json:
    with live.parts.reader.connect() as connection:
        return counts(connection, live.served.id, lineage(connection, pointer(connection, live.served.id).branch))["label"]


def rollback(live: Live, to: int) -> int:
    operation = live.service.rollback("text", to=to, at=None, and_replay=False, except_sources=[], reason="", actor="m")
    return int(live.do(operation)["saved"])


def first_names(live: Live) -> dict[int, str]:
    """Return what the rows that are retrievable were called first."""
    head = live.served.learner.state.heads["label"]
    memory = head.memory
    return {int(memory.ids[slot]): head.labels[memory.origins[slot]] for slot in memory.retrievable.nonzero()[0]}


def copied(live: Live, folder: Path) -> Path:
    shutil.copytree(live.folder, folder)
    return folder


def labels(live: Live) -> list[str | None]:
    return [label for label, _ in live.answers(ASKED)]


def test_a_swap_is_found_named_and_followed_and_a_stream_without_one_is_left_alone(live: Live) -> None:
    teach(live, AS_EVER, 100, 0)
    assert history(live) == [] and labels(live) == ["a", "a", "b", "b"]
    teach(live, SWAPPED, 24, 1)
    lines = history(live)
    assert {json.loads(line.detail)["label"] for line in lines} == {"a", "b"}
    detail = json.loads(lines[0].detail)
    assert detail["became"].keys() == detail["contradicted"].keys() == {"b" if detail["label"] == "a" else "a"}
    assert lines[0].reason.startswith(repr(detail["label"]) + " was contradicted with ") and lines[0].actor == "adaptd"
    assert labels(live) == ["b", "b", "a", "a"]
    assert sum(remembered(live).values()) == 124
    teach(live, SWAPPED, 60, 2)
    assert len(history(live)) == len(lines)


def test_a_crash_loses_nothing_of_it_and_does_it_once(live: Live, tmp_path: Path) -> None:
    teach(live, AS_EVER, 100, 0)
    teach(live, SWAPPED, 30, 1)
    said, rows, found, folds = labels(live), remembered(live), len(history(live)), live.folds()
    assert found
    with Live(live.died(tmp_path / "after")) as again:
        assert labels(again) == said and remembered(again) == rows and len(history(again)) == found
        assert again.folds() == folds
        answers, fold = again.answers(ASKED), again.served.learner.state.drift.facts()
        again.close()
    with Live(tmp_path / "after") as third:
        assert third.answers(ASKED) == answers and len(history(third)) == found
        assert third.served.learner.state.drift.facts() == fold


def test_moments_have_the_folds_that_were_live_whatever_changed_on_another_branch(live: Live, tmp_path: Path) -> None:
    teach(live, AS_EVER, 100, 0)
    before = live.do(live.service.snapshot("text", reason="", actor="m"))["version"]
    teach(live, SWAPPED, 24, 1)
    assert history(live)
    swapped, at_swap = live.folds(), time.time()
    rollback(live, before)
    live.do(live.service.resume("text", what="learning", source="", drop=False, reason="", actor="m"))
    teach(live, AS_EVER, 10, 2)
    as_ever, at_last = live.folds(), time.time()
    teach(live, AS_EVER, 4, 3)
    for at, folds in ((at_last, as_ever), (at_swap, swapped)):
        live.do(live.service.rollback("text", to=None, at=at, and_replay=False, except_sources=[], reason="", actor="m"))
        assert live.folds() == folds
    with Live(live.died(tmp_path / "after")) as again:
        assert again.folds() == swapped


def test_a_checkpoint_keeps_the_fold_to_the_bit(live: Live, tmp_path: Path) -> None:
    teach(live, AS_EVER, 100, 0)
    teach(live, SWAPPED, 6, 1)
    fold, answers = live.served.learner.state.drift.facts(), live.answers(ASKED)
    live.close()
    with Live(live.folder) as again:
        assert again.served.learner.state.drift.facts() == fold and again.answers(ASKED) == answers


def test_a_rollback_undoes_it_and_going_forward_again_brings_it_back(live: Live) -> None:
    teach(live, AS_EVER, 100, 0)
    before, rows = live.answers(ASKED), remembered(live)
    number = live.do(live.service.snapshot("text", reason="", actor="m"))["version"]
    fold = live.served.learner.state.drift.facts()
    teach(live, SWAPPED, 30, 1)
    after, first = live.answers(ASKED), first_names(live)
    saved = rollback(live, number)
    assert live.answers(ASKED) == before and remembered(live) == rows and live.served.learner.state.drift.facts() == fold
    rollback(live, saved)
    assert live.answers(ASKED) == after and first_names(live) == first


def test_what_was_learned_and_followed_is_not_learned_again_by_a_replay(live: Live) -> None:
    teach(live, AS_EVER, 100, 0)
    teach(live, SWAPPED, 30, 1)
    rows = remembered(live)
    assert history(live)
    done = live.do(live.service.replay("text", since=0, except_sources=[], except_events=[], reason="", actor="m"))
    assert done["relearned"] == 0
    assert remembered(live) == rows


def test_an_event_that_followed_is_forgotten_wholly_and_a_name_that_has_gone_leaves_the_history(
        live: Live, tmp_path: Path) -> None:
    first = teach(live, AS_EVER, 100, 0)
    teach(live, SWAPPED, 30, 1)
    live.do(live.service.forget("text", selector={"event": first[0]}, reason="", actor="m"))
    assert sum(remembered(live).values()) == 129
    live.served.learner.call(lambda: live.parts.checkpoint("text")).result(60)
    with Live(copied(live, tmp_path / "copy")) as again:
        assert again.answers(ASKED) == live.answers(ASKED) and first_names(again) == first_names(live)
    live.do(live.service.forget("text", selector={"label": "a"}, reason="", actor="m"))
    assert "a" not in remembered(live)
    assert all(line.detail == "{}" and "'a'" not in line.reason for line in history(live))


def test_nothing_follows_where_it_is_switched_off(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    (folder / "adaptd.toml").write_text(SETTINGS.replace("[adapt]", "[drift]\nenabled = false\n[adapt]"))
    with Live(folder) as live:
        teach(live, AS_EVER, 100, 0)
        teach(live, SWAPPED, 30, 1)
        assert history(live) == [] and Counter(remembered(live)) == {"a": 65, "b": 65}
