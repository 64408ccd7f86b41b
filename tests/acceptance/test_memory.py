"""A memory with limits on a real daemon: what is evicted stays learned, and every state comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, Json, lesson, texts, until
from tests.acceptance.test_rollback import ASKED

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
CAPACITY = 30


def config(policy: str, capacity: int = CAPACITY) -> str:
    return f"{ADAPTING}[memory]\ncapacity = {capacity}\npolicy = \"{policy}\"\n[learn]\nblock = 7\n"


@pytest.fixture
def twins() -> Iterator[tuple[Daemon, Daemon]]:
    """Return two running daemons whose stores have the same key, which draws what is kept."""
    with Daemon(config("herding")) as one:
        one.start()
        assert one.stop() == 0
        with Daemon(copy_of=one) as other:
            yield one.start(), other.start()


def remembered(daemon: Daemon) -> set[str]:
    """Return the texts that are retrievable."""
    found = daemon.post("text/memory/search", {"text": "anything", "k": 1000})["results"]
    return {one["text"] for one in found}


def evictions(daemon: Daemon) -> set[tuple[Any, ...]]:
    return set(daemon.rows("SELECT row, seq FROM eviction"))


def state(daemon: Daemon) -> tuple[set[str], list[tuple[str, Json]], Json]:
    """Return what is retrievable, how texts are answered, and the counts."""
    scores, domain = daemon.scores(ASKED), daemon.domain()
    return remembered(daemon), scores, {name: domain[name] for name in ("memory", "evicted", "labels", "capacity")}


def same(found: tuple[set[str], list[tuple[str, Json]], Json], wanted: tuple[set[str], list[tuple[str, Json]], Json]) -> None:
    assert (found[0], found[2]) == (wanted[0], wanted[2])
    assert [label for label, _ in found[1]] == [label for label, _ in wanted[1]]
    for (_, scores), (_, others) in zip(found[1], wanted[1], strict=True):
        assert scores == pytest.approx(others, abs=1e-4)  # in float32, by another number of corrections to the ridge


def teach(daemon: Daemon, labels: Sequence[str], each: int, by: int, prefix: str) -> None:
    """Teach in requests of a size."""
    rows = lesson(labels, each, prefix=prefix)
    for start in range(0, len(rows), by):
        daemon.teach(rows[start:start + by])


@pytest.mark.parametrize("policy", ["reservoir", "herding"])  # tests/model has the others
def test_every_state_comes_back_with_what_was_retrievable_then(make: Make, policy: str) -> None:
    daemon = make(config(policy)).start()
    teach(daemon, ["card", "weather", "music"], 20, 11, "a")
    version = daemon.post("text/snapshot", {"reason": "then"})["version"]
    then = state(daemon)
    assert then[2] == {"memory": CAPACITY, "evicted": 30, "labels": 3, "capacity": CAPACITY}
    assert set(texts("card")[19:20] + texts("music")[19:20]) <= then[0], "the newest of a class are there"

    teach(daemon, ["food", "card"], 25, 3, "b")
    done = daemon.predict(*texts("travel")[:3])["predictions"]  # encoded, evicted, then corrected
    daemon.post("text/feedback", [{"source": "http", "id": f"a{place}", "label": "food"} for place in range(9)], 202)
    daemon.post("text/feedback", [{"event": one["event"], "label": "travel"} for one in done], 202)
    now = state(daemon)
    assert now[2] == {"memory": CAPACITY, "evicted": 83, "labels": 5, "capacity": CAPACITY}
    same(state(daemon.restart()), now)
    daemon.crash()
    same(state(daemon.start()), now)

    saved = daemon.post("text/rollback", {"to": version, "reason": "try"})["saved"]
    assert state(daemon) == then
    same(state(daemon.restart()), then)
    daemon.post("text/rollback", {"to": saved, "reason": "and back"})
    same(state(daemon), now)
    assert daemon.stop() == 0
    daemon.cli("rollback", "--to", str(version), "--reason", "while stopped")
    same(state(daemon.start()), then)


def test_requests_of_any_size_and_a_replay_evict_alike(twins: tuple[Daemon, Daemon]) -> None:
    for daemon, by in zip(twins, (1, 40), strict=True):
        teach(daemon, ["card", "weather", "music"], 30, by, "a")
    until(lambda: [len(evictions(daemon)) for daemon in twins] == [60, 60], "what was evicted is recorded, behind the answers")
    assert evictions(twins[0]) == evictions(twins[1])
    assert remembered(twins[0]) == remembered(twins[1])
    first = twins[0].ask("GET", "/v1/text/versions")[1]["versions"][0]["version"]
    for daemon in twins:
        daemon.post("text/rollback", {"to": first, "reason": "all was wrong"})
        assert daemon.domain()["memory"] == 0
        daemon.post("text/replay", {"since": 0, "reason": "it was not"})
    assert remembered(twins[0]) == remembered(twins[1])
    assert twins[0].domain()["memory"] == CAPACITY and twins[0].domain()["evicted"] == 60


def test_what_was_forgotten_evicted_nothing(twins: tuple[Daemon, Daemon]) -> None:
    taught, twin = twins
    for daemon in twins:
        if daemon is taught:
            daemon.teach([{**one, "source": "poison"} for one in lesson(["sport", "card"], 15)])
        teach(daemon, ["card", "weather"], 20, 7, "a")
        if daemon is taught:
            daemon.teach([{**one, "source": "poison"} for one in lesson(["weather", "sport"], 30)])
        teach(daemon, ["music", "card"], 12, 5, "b")
        daemon.teach([{"text": "a word", "label": "passing", "source": "brief"}])
        daemon.post("text/forget", {"source": "brief", "reason": "both"})
    before = remembered(taught)
    taught.post("text/forget", {"source": "poison", "reason": "a poisoned feed"})
    assert before != remembered(taught)
    same(state(taught), state(twin))
    same(state(taught.restart()), state(twin))
    for daemon in twins:
        teach(daemon, ["travel", "food"], 9, 4, "c")
    same(state(taught), state(twin))

    assert taught.stop() == twin.stop() == 0
    for daemon in twins:
        event = daemon.rows("SELECT id FROM event WHERE key = 'a3'")[0][0]
        daemon.cli("forget", "--event", event, "--reason", "stopped", "--yes")
    same(state(taught.start()), state(twin.start()))


def test_evictions_that_a_crash_has_lost_are_made_again(make: Make) -> None:
    daemon = make(config("drift")).start()
    teach(daemon, ["card", "weather", "music"], 15, 6, "a")
    version = daemon.post("text/snapshot", {"reason": "then"})["version"]
    then = state(daemon)
    teach(daemon, ["food", "card"], 15, 6, "b")
    daemon.post("text/rollback", {"to": version, "reason": "a branch"})
    daemon.post("text/resume", {"what": "learning", "reason": "on"})
    teach(daemon, ["travel"], 20, 6, "c")
    now, recorded = state(daemon), evictions(daemon)
    assert daemon.stop() == 0
    notes = [(key, json.loads(value)) for key, value in daemon.rows("SELECT key, value FROM store WHERE key LIKE ?", "memory:%")]
    key, note = next((key, note) for key, note in notes if note["through"] > 0 and "30" in json.dumps(note))
    lost = sorted(seq for _, seq in recorded)[len(recorded) // 4]
    daemon.edit("DELETE FROM eviction WHERE seq > ?", lost)
    daemon.edit("UPDATE store SET value = ? WHERE key = ?", json.dumps({**note, "through": lost}), key)
    same(state(daemon.start()), now)
    assert evictions(daemon) == recorded
    daemon.post("text/rollback", {"to": version, "reason": "and then"})
    assert state(daemon)[0] == then[0]


def test_limits_hold_from_when_they_are_given_and_are_shown(make: Make) -> None:
    daemon = make(config("reservoir", capacity=0)).start()
    teach(daemon, ["card", "weather", "music"], 20, 11, "a")
    free = state(daemon)
    assert free[2] == {"memory": 60, "evicted": 0, "labels": 3, "capacity": 0} and not evictions(daemon)
    version = daemon.post("text/snapshot", {"reason": "free"})["version"]
    assert daemon.stop() == 0
    daemon.configure(config("balanced", capacity=12))
    same((state(daemon.start())[0], free[1], {}), (free[0], free[1], {}))
    teach(daemon, ["food"], 3, 1, "b")
    bound = daemon.domain()
    assert (bound["memory"], bound["evicted"], bound["capacity"]) == (12, 51, 12)
    head = daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]
    assert {name: head[name] for name in ("capacity", "per_class", "policy", "retrievable", "evicted", "rows")} == {
        "capacity": 12, "per_class": 0, "policy": "balanced", "retrievable": 12, "evicted": 51, "rows": 63}
    assert "12 capacity" in daemon.cli("memory", "stats") and "memory full, 51 evicted" in daemon.cli("status")
    daemon.post("text/rollback", {"to": version, "reason": "before the limits"})
    assert remembered(daemon) == free[0]
    assert daemon.stop() == 0
    assert json.loads(daemon.cli("status", "--json", expect=3))["domains"]["text"]["evicted"] == 0


def test_an_adaptation_learns_from_memory_and_experience_and_is_judged_on_every_held_out_row(make: Make) -> None:
    few = config("balanced").replace("[adapt]", "[adapt]\nmin_labels = 50")
    daemon = make(few + "[holdout]\nafter = 5\nshare = 0.4\n").start()
    teach(daemon, list(("card", "weather", "music", "food", "travel")), 50, 50, "a")
    held = daemon.rows("SELECT count(*) FROM learned WHERE holdout = 1")[0][0]
    assert daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]["holdout"] == held > 40
    done = daemon.post("text/adapt", {"wait": True})
    first = daemon.rows("SELECT metrics FROM version WHERE number = ?", done["version"])
    report = json.loads(first[0][0])
    assert report["training"]["rows"] == report["training"]["new"] == 250 - held, "an experience is learned from, evicted or not"
    assert report["holdout_rows"] == held
    teach(daemon, ["sport"], 20, 20, "b")
    until(lambda: daemon.domain()["learn_lag"] == 0, "learned")


def test_a_policy_that_does_not_exist_is_refused_at_start_with_the_known_ones(make: Make) -> None:
    daemon = make(config("fifo"))
    daemon.spawn()
    assert daemon.wait() == 78 and "memory.policy" in daemon.said and "reservoir" in daemon.said
