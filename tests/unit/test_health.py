"""Heartbeats: which parts turn, which are stuck."""

import time

from adaptd.health import Health


def test_a_part_whose_loop_turns_is_well_and_one_that_does_not_is_named():
    health, now = Health(), time.monotonic()
    health.watch("writer", lambda: now - 3.0)
    health.watch("learner:tickets", lambda: now - 61.0)
    health.watch("scheduler")
    health.beat("scheduler")
    assert health.stuck() == ["learner:tickets"]
    assert {name: part["state"] for name, part in health.parts().items()} == {
        "writer": "ok", "learner:tickets": "stalled", "scheduler": "ok"}
    assert 3.0 <= health.ages()["writer"] < 30.0 and health.ages()["scheduler"] < 30.0


def test_a_part_that_may_be_silent_is_never_stuck_and_says_its_own_state():
    health = Health()
    health.watch("feed:mail", lambda: time.monotonic() - 1e6, limit_s=None, state=lambda: "paused")
    assert health.stuck() == []
    assert health.parts()["feed:mail"]["state"] == "paused"


def test_each_part_has_a_limit_of_its_own():
    health, now = Health(), time.monotonic()
    health.watch("scheduler", lambda: now - 61.0, limit_s=120.0)
    health.watch("event loop", lambda: now - 61.0)
    assert health.stuck() == ["event loop"]
