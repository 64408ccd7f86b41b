"""An adaptation that is paused, cancelled, bounded, or killed with its daemon: a real daemon, a real trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ASKED = ("where did I put my card?", "will it rain on sunday?")
LONG = """
[adapt]
every_labels = 0
options = {{ steps = {steps} }}
{more}
[http]
port = 0
"""
FOR_EVER = 10_000_000


def taught(make: Make, steps: int, more: str = "") -> Daemon:
    daemon = make(LONG.format(steps=steps, more=more)).start()
    daemon.teach(lesson(list(SUBJECTS), 40))
    return daemon


def adapting(daemon: Daemon) -> Json:
    return daemon.domain()["adapting"] or {}


def trains(daemon: Daemon) -> None:
    until(lambda: adapting(daemon).get("stage") == "training" and adapting(daemon).get("words"), "it trains", 120.0)


def has_kept_its_place(daemon: Daemon) -> list[Path]:
    return until(lambda: list(daemon.paths.jobs.rglob("place.safetensors")), "the trainer keeps its place", 120.0)


def children(daemon: Daemon) -> list[psutil.Process]:
    assert daemon.process is not None
    found = []
    for one in psutil.Process(daemon.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [] if "adaptd.doorkeeper" in one.cmdline() else [one]  # that one reads large batches
    return found


def history(daemon: Daemon) -> list[tuple[str, str]]:
    return [(one["what"], one["reason"]) for one in daemon.ask("GET", "/v1/history?domain=text")[1]["actions"]]


def last(daemon: Daemon) -> Json:
    return until(lambda: not adapting(daemon) and daemon.domain()["last_verdict"], "it is over", 300.0)


@pytest.mark.slow
def test_a_daemon_that_is_killed_amid_a_training_goes_on_with_it_to_the_same_bytes(make: Make) -> None:
    daemon = taught(make, 1000)  # longer than between two places that are kept, on any machine
    daemon.post("text/adapt", {"wait": False})
    has_kept_its_place(daemon)
    daemon.crash()
    daemon.start()
    assert daemon.problems().get("interrupted_adaptation") is None
    assert adapting(daemon)["reason"] == "on demand"
    daemon.teach([{"text": "a label that came meanwhile", "label": "new"}])  # is none of its rows
    assert last(daemon)["verdict"] in ("promote", "reject", "undecided")
    assert list(daemon.paths.jobs.iterdir()) == []
    number, metrics = daemon.rows("SELECT number, metrics FROM version WHERE kind = 'candidate'")[0]
    assert json.loads(metrics)["training"]["numbers"]["resumed_at"] > 0
    found: Any = json.loads(daemon.cli("rebuild", str(number), "--json"))
    assert found["files"]["label.adapter"]["verdict"] == "equal"


@pytest.mark.slow
def test_a_daemon_that_is_stopped_goes_on_too_but_not_with_another_champion(make: Make) -> None:
    daemon = taught(make, FOR_EVER)
    first = daemon.post("text/snapshot")["version"]
    daemon.post("text/adapt", {"wait": False})
    trains(daemon)
    assert daemon.stop() == 0
    assert daemon.cli("doctor", "--json")
    daemon.start()
    trains(daemon)
    assert daemon.stop() == 0
    daemon.cli("rollback", "--to", str(first))
    daemon.start()
    assert last(daemon)["verdict"] == "cancelled" and "rolled back since" in last(daemon)["reasons"][0]
    assert list(daemon.paths.jobs.iterdir()) == [] and children(daemon) == []


@pytest.mark.slow
def test_what_is_forgotten_while_it_is_stopped_is_in_no_job(make: Make) -> None:
    daemon = taught(make, FOR_EVER)
    daemon.post("text/adapt", {"wait": False})
    trains(daemon)
    assert daemon.stop() == 0 and list(daemon.paths.jobs.rglob("rows.safetensors"))
    daemon.cli("forget", "--label", "garden", "--yes", "--reason", "asked")
    assert not list(daemon.paths.jobs.rglob("rows.safetensors"))
    daemon.start()
    assert daemon.domain()["adapting"] is None


@pytest.mark.slow
def test_an_adaptation_is_paused_goes_on_and_is_cancelled(make: Make) -> None:
    daemon = taught(make, FOR_EVER)
    then, version = daemon.scores(ASKED), daemon.domain()["version"]
    assert daemon.ask("POST", "/v1/text/adapt/cancel")[0] == 409  # none runs
    daemon.post("text/adapt", {"wait": False})
    has_kept_its_place(daemon)

    daemon.cli("hold", "--adaptation", "--reason", "the machine is needed")
    until(lambda: adapting(daemon).get("stage") == "paused" and not children(daemon), "it holds nothing")
    assert daemon.scores(ASKED) == then
    daemon.restart()
    until(lambda: adapting(daemon).get("stage") == "paused" and not children(daemon), "a pause outlives the daemon")
    daemon.cli("resume", "--adaptation")
    trains(daemon)

    daemon.cli("adapt", "--cancel", "--reason", "it takes too long")
    assert daemon.domain()["adapting"] is None and children(daemon) == [] and list(daemon.paths.jobs.iterdir()) == []
    assert last(daemon)["verdict"] == "cancelled" and "it takes too long" in last(daemon)["reasons"][0]
    what, reason = history(daemon)[0]
    assert what == "adapt-cancelled" and reason.endswith("it takes too long") and "adaptation_failed" not in daemon.problems()
    assert (daemon.scores(ASKED), daemon.domain()["version"]) == (then, version)


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "words"), [("time_limit_s = 3.0", "took longer than 3 s"),
                                              ("memory_limit_mb = 100", "took more than 100 MB of memory")])
def test_an_adaptation_that_takes_too_much_is_ended_and_says_so(make: Make, bound: str, words: str) -> None:
    daemon = taught(make, FOR_EVER, bound)
    then = daemon.scores(ASKED)
    status, document = daemon.ask("POST", "/v1/text/adapt", {"wait": True})
    assert status >= 400 and words in document["error"]["message"] and "raise adapt." in document["error"]["hint"]
    assert last(daemon)["verdict"] == "failed" and words in daemon.problems()["adaptation_failed"]
    assert history(daemon)[0][0] == "adapt-failed" and words in history(daemon)[0][1]
    assert list(daemon.paths.jobs.iterdir()) == [] and children(daemon) == [] and daemon.scores(ASKED) == then
