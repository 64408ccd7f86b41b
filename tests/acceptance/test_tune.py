"""Settings tuned on a real store, beside its daemon; nothing of it is another afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from adaptd.config import load
from tests.acceptance.daemon import ADAPTING, SUBJECTS, Daemon, Json, lesson
from tests.acceptance.test_fork import complaint

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
MUCH_HELD_OUT = ADAPTING + "\n[holdout]\nshare = 0.6\nafter = 5\n"


def tuned(daemon: Daemon, *words: str) -> Json:
    command = [sys.executable, "-m", "adaptd", "tune", *words, "--json", "--config", str(daemon.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found: Json = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_settings_are_tuned_beside_the_daemon_and_nothing_live_is_changed(make: Make) -> None:
    daemon = make(MUCH_HELD_OUT.replace("[adapt]", "[adapt]\nmin_labels = 100")).start()
    daemon.teach(lesson(list(SUBJECTS), 45))
    daemon.settled()
    before = daemon.scores(["my credit card"]), daemon.domain()["version"], daemon.rows("SELECT count(*) FROM action")
    found = tuned(daemon, "--tries", "3")
    assert (found["head"], found["rows"], found["tries"]) == ("label", 360, 3) and found["held_out"] >= 100
    assert [one["rungs"] for one in found["table"]] == [3, 1, 1] and len(found["configured"]["accuracy"]) == 3
    assert {"adapt.enabled": False} in [one["settings"] for one in found["table"]]
    best = found["best"]
    assert best["settings"] == found["table"][0]["settings"] and best["lower"] <= best["delta"] <= best["upper"]
    assert best["better"] == (best["p"] <= 0.05 and not best["worse_classes"])
    assert (daemon.scores(["my credit card"]), daemon.domain()["version"], daemon.rows("SELECT count(*) FROM action")) == before
    assert daemon.stop() == 0
    again = tuned(daemon, "--tries", "3")  # the same seed, the same search
    assert (again["table"][0]["settings"], again["best"]["delta"]) == (best["settings"], best["delta"])
    daemon.configure(best["toml"] + "\n")
    assert load(daemon.folder)[0].served()["text"] is not None  # the lines are lines of a configuration


def test_too_little_to_tune_by_is_said(shared: Daemon) -> None:
    shared.teach(lesson(["card"], 2, source="few"), "text")
    assert "labels are learned" in complaint(shared, "tune", "--domain", "text", expect=1)
    assert "nil" in complaint(shared, "tune", "--domain", "nil", expect=1)
