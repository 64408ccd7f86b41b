"""One contract for every kind of feed, against its real broker: nothing lost, nothing twice, whatever is killed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from tests.acceptance.brokers import SERVERS, Server, running
from tests.acceptance.conftest import CONFIG
from tests.acceptance.daemon import SUBJECTS, Daemon, Json, texts, until

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
Make = Callable[..., Daemon]
LABELS = list(SUBJECTS)
MESSAGES, KILLS = 2000, 3
POISON: Sequence[bytes] = (b"not json", b'["text"]', b'{"id": "p3", "text": 5, "label": "card"}')


@pytest.fixture(scope="module", params=[*SERVERS])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Return a broker that the tests of one kind share: each leaves it running."""
    with running(request.param) as made:
        yield made


def messages(first: int, count: int, *, labelled: bool = True) -> list[Json]:
    """Return messages with ids of their own."""
    found = []
    for number in range(first, first + count):
        label = LABELS[number % len(LABELS)]
        message = {"id": f"m{number}", "text": f"{texts(label)[number % 50]} {number}"}
        found.append({**message, "label": label} if labelled else message)
    return found


def keys(daemon: Daemon) -> list[str]:
    """Return the ids of the journalled events, in the journal's order."""
    return [key for (key,) in daemon.rows("SELECT key FROM event ORDER BY seq")]


def feed(daemon: Daemon) -> Json:
    """Return the feed's part of the status document."""
    found: Json = daemon.status()["feeds"]["f"]
    return found


def check_each_once(daemon: Daemon, sent: Sequence[Json]) -> None:
    """Wait for the messages, and check that each is an event once, and each label learned once."""
    until(lambda: len(keys(daemon)) >= len(sent), f"{len(sent)} events; {feed(daemon)}, {daemon.problems()}")
    found = keys(daemon)
    assert len(found) == len(set(found)), "an event is there twice"
    assert set(found) == {one["id"] for one in sent}, f"lost: {sorted({one['id'] for one in sent} - set(found))[:5]}"
    learned = daemon.rows("SELECT event, count(*) FROM learned GROUP BY event")
    assert len(learned) == sum("label" in one for one in sent) and {n for _, n in learned} <= {1}


def test_the_contract(server: Server, make: Make) -> None:
    """Start without the broker, resume, poison, back-pressure, a broker that goes and comes back."""
    server.stop()
    daemon = make(CONFIG + "[limits]\nqueue = 40\n" + server.table(batch=20)).start()  # ready: the broker need not be there
    until(lambda: "feed_failed" in daemon.problems(), "the feed is reported")
    assert feed(daemon)["state"] == "failing"
    server.start()
    until(lambda: feed(daemon)["state"] == "running" and "feed_failed" not in daemon.problems(), "it is connected")
    sent: list[Json] = []

    def send(count: int, before: Sequence[bytes] = ()) -> None:
        fresh = messages(len(sent), count)
        sent.extend(fresh)
        server.publish([*before, *fresh])

    send(30)
    check_each_once(daemon, sent)
    assert "feed_may_lose" not in daemon.problems(), daemon.problems()
    assert daemon.stop() == 0
    send(30)
    check_each_once(daemon.start(), sent)  # resumed: nothing again, nothing left out
    send(5, before=POISON)
    check_each_once(daemon, sent)
    check_dead_letters(daemon)
    send(300)  # more than may wait
    most = 0

    def all_there() -> bool:
        nonlocal most
        most = max(most, daemon.domain()["learn_lag"])
        return len(keys(daemon)) >= len(sent)

    until(all_there, "all is learned", every_s=0.01)
    assert most <= 40 + 2 * 20, f"{most} entries waited to be learned"
    server.stop()
    until(lambda: "feed_failed" in daemon.problems(), "the loss of the broker is noticed")
    server.start()
    send(30)
    check_each_once(daemon, sent)


def check_dead_letters(daemon: Daemon) -> None:
    """Check that the poison is kept, listed, tried again, dropped."""
    until(lambda: feed(daemon)["dead"] == len(POISON), f"the poison is kept: {feed(daemon)}")
    _, listed = daemon.ask("GET", "/v1/feeds/f/dead")
    assert [one["raw"].encode() for one in listed["dead"]] == [*POISON] and "feed_rejected" in daemon.problems()
    numbers = [one["id"] for one in listed["dead"]]
    assert daemon.ask("POST", "/v1/feeds/f/dead/retry", {"ids": numbers}) == (200, {"taken": 0, "left": numbers})
    assert daemon.ask("POST", "/v1/feeds/f/dead/drop", {"ids": numbers[:2]}) == (200, {"dropped": 2})
    assert feed(daemon)["dead"] == 1


def test_kill_9_of_the_daemon_gives_each_message_once(make: Make) -> None:
    """All kinds at once, so that the daemon is started as often as one kind needs."""
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(running(kind)) for kind in SERVERS}
        daemon = make(CONFIG + "".join(one.table(kind, batch=20) for kind, one in servers.items())).start()
        until(lambda: all(one["state"] == "running" for one in daemon.status()["feeds"].values()), "all are connected")
        sent = messages(10_000, MESSAGES, labelled=False)
        publishers = [threading.Thread(target=publish, args=(one, sent)) for one in servers.values()]
        for publisher in publishers:
            publisher.start()
        amid = kill(daemon, len(servers))
        for publisher in publishers:
            publisher.join(60)
        total = MESSAGES * len(servers)
        until(lambda: count(daemon) >= total, f"all are journalled: {count(daemon)}, {daemon.problems()}", 120.0)
        wanted = sorted(one["id"] for one in sent)
        for kind in servers:
            found = [key for (key,) in daemon.rows("SELECT key FROM event WHERE source = ? ORDER BY key", kind)]
            assert found == wanted, f"{kind}: {len(found)} events, {len(set(found))} of them different"
        assert daemon.rows("SELECT count(*) FROM dead") == [(0,)]
        assert amid, "each kill came after everything had been read"
        assert daemon.rows("PRAGMA integrity_check") == [("ok",)]


def kill(daemon: Daemon, kinds: int) -> int:
    """Kill the daemon while it reads; return how many kills came before everything was read."""
    wait, amid = threading.Event(), 0
    for life in range(KILLS):
        limit = kinds * MESSAGES * (life + 1) // (KILLS + 2)
        until(lambda: count(daemon) >= limit, "some are journalled", every_s=0.005)  # noqa: B023
        wait.wait(random.uniform(0.0, 0.05))
        daemon.crash()
        amid += count(daemon) < kinds * MESSAGES
        daemon.start()
    return amid


def publish(server: Server, sent: Sequence[Json]) -> None:
    """Give a broker messages, a hundred at a time."""
    for at in range(0, len(sent), 100):
        server.publish(sent[at:at + 100])


def count(daemon: Daemon) -> int:
    """Count the journalled events."""
    found: int = daemon.rows("SELECT count(*) FROM event")[0][0]
    return found
