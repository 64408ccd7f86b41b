"""Review in a domain of several heads, and over rollbacks and restarts; the service in this process, on a real store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
from sqlalchemy import update

import adaptd
from adaptd import plugins
from adaptd import tables as t
from adaptd.heads import Classify, Head
from adaptd.paths import CONFIG
from tests.integration.live import SETTINGS, Json, Live


class Moody(adaptd.Domain):
    """Texts with a topic and a mood."""

    name = "moody"
    heads: ClassVar[Mapping[str, Head]] = {"topic": Classify(), "mood": Classify()}

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Read the text."""
        return adaptd.Example(text=payload["text"])


@adaptd.hookimpl
def register_domains() -> list[type[adaptd.Domain]]:
    """Offer it."""
    return [Moody]


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[Live]:
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / CONFIG).write_text(SETTINGS + 'kind = "moody"\n')
    with patch.dict(plugins.BUILTIN, {"adaptd": (*plugins.BUILTIN["adaptd"], __name__)}), Live(folder) as life:
        yield life


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "plain") as life:
        yield life


def teach(life: Live, *events: Json) -> None:
    assert not life.do(life.service.events("text", list(events), source="http"))["rejected"]


def asked(life: Live, *texts: str) -> list[str]:
    inputs = [{"text": text} for text in texts]
    told = life.do(life.service.predict("text", inputs, source="http", explain=False, min_seq=None, actor="m"))
    return [one["event"] for one in told["predictions"]]


def feed_back(life: Live, events: list[str], label: Any, **fields: str) -> None:
    given = [{"event": event, "label": label, **fields} for event in events]
    assert not life.do(life.service.feedback("text", given, source="http"))["rejected"]


def review(life: Live) -> Json:
    return life.do(life.service.review("text", n=500, minutes=None))


def report(life: Live) -> Json:
    return life.do(life.service.review_report("text"))


def test_a_head_that_knows_no_label_makes_an_event_worth_asking_about(moody: Live) -> None:
    asked(moody, "lost card", "rain tomorrow")
    [one, _] = review(moody)["items"]
    assert (one["label"], one["scores"], one["confidence"]) == ({"topic": None, "mood": None}, {"topic": {}, "mood": {}}, 0.0)
    teach(moody, *({"text": f"card {i} lost", "label": {"topic": "card"}} for i in range(6)))
    one = review(moody)["items"][0]
    assert one["label"] == {"topic": "card", "mood": None} and one["reason"].startswith("no label has been learned yet")


def test_each_heads_answers_count_in_the_report(moody: Live) -> None:
    teach(moody, *({"text": f"card {i} lost", "label": {"topic": "card", "mood": "sad"}} for i in range(6)))
    mine = asked(moody, *(f"rain tomorrow {i}" for i in range(6)))
    feed_back(moody, mine, {"topic": "rain", "mood": "fine"}, teacher="review")
    later = asked(moody, *(f"rain again {i} tomorrow" for i in range(4)))
    feed_back(moody, later, {"topic": "rain", "mood": "fine"})
    told = report(moody)
    [one] = told["teachers"]
    assert (one["labels"], one["answered"], one["corrected"]) == (6, 6, 6)
    assert told["later"] == {"events": 8, "right": 8, "prevented": 8, "caused": 0, "net": 8}
    assert moody.do(moody.service.review("text", n=5, minutes=None))["pool"] == 0


def test_a_rollback_takes_reviewed_labels_out_of_the_estimate_and_a_replay_brings_them_back(live: Live, tmp_path: Path) -> None:
    teach(live, *({"text": f"card {i} lost", "label": "card"} for i in range(6)))
    version = live.do(live.service.snapshot("text", reason="", actor="m"))["version"]
    mine = asked(live, *(f"rain tomorrow {i}" for i in range(6)))
    feed_back(live, mine, "rain", teacher="review:ana")
    later = asked(live, *(f"rain again {i} tomorrow" for i in range(4)))
    feed_back(live, later, "rain")
    before = report(live)
    assert before["later"]["prevented"] == 4
    live.do(live.service.rollback("text", to=version, at=None, reason="", actor="m", and_replay=False, except_sources=()))
    told = report(live)
    assert (told["labels"], told["later"]) == (6, None) and review(live)["pool"] == 0  # the labels are in the journal
    live.do(live.service.replay("text", since=0, except_sources=(), except_events=(), reason="", actor="m"))
    assert report(live)["later"] == before["later"]
    shutil.copytree(live.folder, tmp_path / "copy")
    with Live(tmp_path / "copy") as again:
        assert report(again)["later"] == before["later"]


def test_a_report_leaves_what_answers_as_it_was(live: Live) -> None:
    teach(live, *({"text": f"card {i} lost", "label": "card"} for i in range(6)))
    feed_back(live, asked(live, *(f"rain tomorrow {i}" for i in range(6))), "rain", teacher="review:ana")
    feed_back(live, asked(live, "rain again"), "rain")
    texts = ("lost card", "rain", "card in the rain")
    before = live.answers(texts)
    assert report(live)["later"] is not None
    assert live.answers(texts) == before


def test_minutes_are_filled_at_the_pace_of_the_newest_labels(live: Live) -> None:
    events = asked(live, *(f"word{i} other{i}" for i in range(60)))
    assert live.do(live.service.review("text", n=None, minutes=0.5))["pace_s"] == 6.0
    feed_back(live, events[:12], "a", teacher="review:ana")
    live.parts.writer.submit(lambda c: c.execute(update(t.label).values(received=3.0 * t.label.c.seq))).result()
    found = live.do(live.service.review("text", n=None, minutes=0.5))
    assert (found["pace_s"], len(found["items"])) == (3.0, 10)
