"""The doctor beside a daemon, and on what a daemon left: well when all is well, and a repair that loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.acceptance.daemon import Daemon, flip, lesson, newest

pytestmark = pytest.mark.acceptance
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album")


def test_a_daemon_s_store_is_well_and_a_repair_of_its_checkpoint_loses_nothing(make: Callable[..., Daemon]) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music"], 20))
    daemon.post("text/snapshot")
    daemon.teach(lesson(["food"], 20))
    assert json.loads(daemon.cli("doctor", "--json")) == {"state": "running", "findings": [], "repaired": []}
    daemon.cli("doctor", "--repair", expect=3)
    then, memory = daemon.scores(ASKED), daemon.domain()["memory"]
    assert daemon.stop() == 0
    assert json.loads(daemon.cli("doctor", "--json")) == {"state": "stopped", "findings": [], "repaired": []}
    flip(next(newest(daemon.paths.checkpoints / "text")) / "label.head")
    (daemon.paths.versions / "99").mkdir()
    found = json.loads(daemon.cli("doctor", "--json", expect=1))["findings"]
    assert [one["code"] for one in found] == ["orphan", "damaged_checkpoint"]
    assert len(json.loads(daemon.cli("doctor", "--repair", "--json"))["repaired"]) == 2
    daemon.start()
    assert daemon.problems() == {} and daemon.domain()["memory"] == memory
    for (label, scores), (wanted, before) in zip(daemon.scores(ASKED), then, strict=True):
        assert label == wanted and all(abs(scores[name] - before[name]) < 1e-4 for name in before)
