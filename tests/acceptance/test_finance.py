"""Opinion monitoring on a real daemon: two heads, late and corrected labels, and a surge that is told with its events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, Json, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
MIND = {"negative": "the flight was delayed again, awful", "positive": "thank you, the crew was lovely"}
CONFIG = ADAPTING + """
[plugins]
allow = ["adaptd-finance"]
[domains.finance]
[observers.opinion]
kind = "opinion"
domain = "finance"
options = { events_per_false_alarm = 1000 }
[alerts.desk]
kind = "command"
options = { argv = ["sh", "-c", "cat >> %s; echo >> %s"] }
"""


@pytest.fixture
def monitor(make: Make, tmp_path: Path) -> tuple[Daemon, Path]:
    told = tmp_path / "alerts"
    return make(CONFIG % (told, told)).start(), told


def tweets(*minds: str, start: int, labelled: bool = True) -> list[Json]:
    found = [{"text": f"{MIND[mind]} {start + place}", "entity": "Hopper Air", "id": f"t{start + place}",
              "time": 1_424_000_000 + 60 * (start + place)} for place, mind in enumerate(minds)]
    label = [{"topic": "delay", "sentiment": mind} if mind == "negative" else {"sentiment": mind} for mind in minds]
    return [{**one, "label": said} for one, said in zip(found, label, strict=True)] if labelled else found


def surging(daemon: Daemon) -> list[Json]:
    return [one for one in daemon.status()["problems"] if one["code"] == "negative_opinion"]


def test_a_surge_alarms_with_its_events_and_corrected_labels_take_it_back(monitor: tuple[Daemon, Path]) -> None:
    daemon, told = monitor
    daemon.teach(tweets(*(["negative", "positive", "positive", "positive"] * 25), start=0), "finance")
    figures = daemon.ask("GET", "/v1/finance/observed")[1]["observers"]["opinion"]
    assert {"entity": "Hopper Air", "topic": None, "events": 100, "negative": 0.25, "mean": 0.5} in figures["entities"]
    assert not figures["surges"] and not surging(daemon)

    storm = tweets(*(["negative"] * 30), start=100, labelled=False)
    answers = daemon.post("finance/predict", {"inputs": storm})["predictions"]
    assert {one["label"]["sentiment"] for one in answers} == {"negative"}, "an answer counts until a label comes"
    surges = {one["subject"]: one["message"] for one in until(lambda: surging(daemon), "the surge is seen")}
    assert {"delay", "Hopper Air", "Hopper Air about delay"} >= surges.keys() and answers[0]["event"] in surges["Hopper Air"]
    alert = until(lambda: told.exists() and [line for line in told.read_text().splitlines() if "negative_opinion" in line],
                  "the sink is told")
    assert json.loads(alert[0])["subject"] in {one["subject"] for one in surging(daemon)}
    daemon.restart()
    until(lambda: surging(daemon), "it is seen again after a restart")

    daemon.post("finance/feedback", [{"event": one["event"], "label": {"sentiment": "positive"}} for one in answers], 202)
    until(lambda: not surging(daemon), "late labels take it back")
    figures = daemon.ask("GET", "/v1/finance/observed")[1]["observers"]["opinion"]
    [acme] = [one for one in figures["entities"] if one["topic"] is None]
    assert acme["events"] == 130 and acme["negative"] == pytest.approx(25 / 130, abs=1e-4)


def test_what_is_no_opinion_is_refused(monitor: tuple[Daemon, Path]) -> None:
    daemon, _ = monitor
    bad = [{"text": "fine", "label": {"sentiment": "great"}}, {"text": "fine", "label": {"mood": "x"}}, {"entity": "ACME"},
           {"text": "fine", "entity": ["ACME"]}]
    _, document = daemon.ask("POST", "/v1/finance/events", bad)
    assert [one["error"]["field"] for one in document["rejected"]] == ["label.sentiment", "label", "text", "entity"], document
