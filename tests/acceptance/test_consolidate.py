"""A consolidation in a real daemon: tuned, judged, made live, kept over a restart, rolled back, and retired by a forget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, texts, until
from tests.integration.live import SETTINGS, Live

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
CONFIG = """
[adapt]
every_labels = 0
[consolidate]
every_labels = {every}
options = {{ blocks = 1, epochs = 1 }}
[http]
port = 0
"""
ASKED = ("where did I put my card?", "will it rain on sunday?")
EXPERT = "consolidated"


def experts(daemon: Daemon, text: str = ASKED[0]) -> dict[str, Any]:
    """Return what each expert that was heard says of a text."""
    answer = daemon.predict(text, explain=True)["predictions"][0]
    return {one["expert"]: one["label"] for one in answer["experts"]}


def over(daemon: Daemon) -> Json:
    """Wait until what runs is over; return its verdict. The child has the lowest priority: a busy machine takes long."""
    def last() -> Json:
        found: Json = daemon.domain()["last_verdict"] or {}
        return found if "started" in found else {}

    return until(last, "it is over", 600.0)


def test_it_goes_live_by_its_verdict_and_away_by_a_rollback_and_by_a_forget(make: Make) -> None:
    daemon = make(CONFIG.format(every=0)).start()
    daemon.teach(lesson(list(SUBJECTS), 40, prefix="a"))
    before, plain = daemon.scores(ASKED), experts(daemon)
    assert EXPERT not in plain

    daemon.cli("adapt", "--consolidate")
    daemon.cli("adapt", expect=1)  # one at a time, and each has a verdict of its own
    done = over(daemon)
    assert done["verdict"] in ("promote", "undecided"), done
    assert list(daemon.paths.jobs.iterdir()) == []  # no text is left of what it read
    metrics = json.loads(daemon.rows("SELECT metrics FROM version WHERE number = ?", done["version"])[0][0])
    assert metrics["holdout_rows"] > 0 and metrics["trained"]["recipe"]["strategy"] == "consolidate"
    if done["verdict"] == "undecided":
        assert EXPERT not in experts(daemon) and daemon.scores(ASKED) == before  # unproved, it is not live
        daemon.post("text/promote", {"to": done["version"], "force": True, "reason": "a test"})
    live = daemon.scores(ASKED)
    assert experts(daemon)[EXPERT] == "card" and experts(daemon, ASKED[1])[EXPERT] == "weather"
    assert live != before and [label for label, _ in live] == [label for label, _ in before]

    assert daemon.restart().scores(ASKED) == live and EXPERT in experts(daemon)
    asked = daemon.predict(*texts("card", 3))["predictions"]  # an outcome of its own is folded
    daemon.post("text/feedback", [{"event": one["event"], "label": "card"} for one in asked], 202)
    daemon.teach([{"text": "the moon rises over the hill", "label": "night", "id": "later"}])
    assert daemon.predict("the moon rises over the hill")["predictions"][0]["label"] == "night"  # at once, though it knows none
    daemon.cli("rebuild", str(done["version"]), expect=1)

    parent = daemon.rows("SELECT parent FROM version WHERE number = ?", done["version"])[0][0]
    daemon.post("text/rollback", {"to": parent})
    assert daemon.scores(ASKED) == before and EXPERT not in experts(daemon)
    daemon.post("text/rollback", {"to": done["version"]})
    assert daemon.scores(ASKED) == live and EXPERT in experts(daemon)

    trained = next(event for event, held in daemon.rows(
        "SELECT e.id, l.holdout FROM learned l JOIN event e ON e.seq = l.event ORDER BY l.id") if not held)
    daemon.post("text/forget", {"event": trained, "reason": "their request"})
    assert EXPERT not in experts(daemon)
    status, refused = daemon.ask("POST", "/v1/text/rollback", {"to": done["version"]})
    assert status == 409 or status == 422 or status == 403, refused
    assert "forgotten" in refused["error"]["message"]


@pytest.mark.slow
def test_it_starts_by_itself_after_so_many_labels_and_waits_longer_after_one_that_gained_nothing(make: Make) -> None:
    daemon = make(CONFIG.format(every=220)).start()
    daemon.teach(lesson(list(SUBJECTS), 30))
    last = over(daemon)
    assert last["started"] == "240 new labels" and last["verdict"] in ("promote", "undecided", "reject")
    assert daemon.rows("SELECT COUNT(*) FROM version WHERE kind = 'candidate'")[0][0] == 1
    waits = daemon.domain()["next_consolidation"]
    assert waits["labels"] == 0 and waits["at_labels"] == 220 * waits["backed_off"]
    assert daemon.domain()["next_adaptation"]["labels"] == 240  # an adaptation's own count goes on


def test_an_encoder_without_such_blocks_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    (folder / "adaptd.toml").write_text(SETTINGS)
    with Live(folder) as live, pytest.raises(Exception, match="no upper blocks that can be tuned"):
        live.do(live.service.adapt("text", wait=True, consolidate=True, actor="m"))
