"""SIGHUP on a real daemon: what can change changes, the rest is named, and a wrong file changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.acceptance.daemon import Daemon, lesson, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]


def reloaded(daemon: Daemon, old: str, new: str) -> str:
    """Change the configuration, send the signal, and return the line that tells of it."""
    text = daemon.paths.config.read_text()
    assert old in text
    daemon.paths.config.write_text(text.replace(old, new))
    told = daemon.said.count("reloaded")
    daemon.signal(signal.SIGHUP)
    until(lambda: daemon.said.count("reloaded") > told, "it has read the file")
    return next(line for line in reversed(daemon.said.splitlines()) if "reloaded" in line)


def test_what_can_change_while_it_runs_does_and_the_rest_is_named(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather"], 15))
    few = daemon.post("text/adapt", {"wait": True})
    assert few["verdict"] == "undecided" and "an adaptation wants 200" in few["reasons"][0]
    line = reloaded(daemon, "every_labels = 0", "every_labels = 0\nmin_labels = 20")
    assert "now in force: domains.text.adapt.min_labels; nothing waits for a restart" in line
    assert daemon.post("text/adapt", {"wait": True})["reasons"] != few["reasons"]

    line = reloaded(daemon, "[http]", "[learn]\nfeatures = 512\n[log]\nlevel = \"debug\"\n[http]")
    assert "now in force: log.level; a restart is needed for: domains.text.learn.features" in line
    assert "the schedule of domains.text.adapt" in reloaded(daemon, "min_labels", 'every = "1h"\nmin_labels')
    assert daemon.problems() == {} and daemon.restart().domain()["memory"] == 30


@pytest.mark.parametrize(("new", "said"), [("every_labels = -1", "every_labels"), ("every_labels = ", "TOML"),
                                           ('strategy = "best"', "unknown name 'best'"), ("labels = 3", "labels")])
def test_a_wrong_file_changes_nothing_and_is_told(make: Make, new: str, said: str) -> None:
    daemon = make().start()
    assert "not reloaded" in reloaded(daemon, "every_labels = 0", new)
    assert said in daemon.problems()["bad_config"]
    daemon.teach(lesson(["card"], 2))
    assert daemon.domain()["memory"] == 2 and daemon.ask("GET", "/readyz")[0] == 200
    daemon.paths.config.unlink()
    daemon.signal(signal.SIGHUP)
    until(lambda: "No such file" in str(daemon.problems()) or "no configuration" in str(daemon.problems()), "it is told")
    assert daemon.stop() == 0
