"""Feeds: real brokers give labelled messages while the daemon is killed and they are started again; each is learned once.

One daemon follows all brokers at once. Kafka is Tansu, which speaks its protocol. A producer sends again what was not
acknowledged, as it must; so a broker may have a message twice, and the message's id makes it one event.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from adaptd.bench.brokers import Mosquitto, NatsServer, RabbitServer, RedisServer, Server
from adaptd.bench.daemon import Daemon
from adaptd.bench.plan import LEARN_S, Run, Tools
from adaptd.bench.tansu import Tansu
from adaptd.bench.waiting import until

Json = dict[str, Any]
BROKERS: Mapping[str, type[Server]] = {one.kind: one for one in (RedisServer, NatsServer, Mosquitto, RabbitServer, Tansu)}
MESSAGES, KILLS, RESTARTS = 20_000, 10, 2
QUICK_MESSAGES, QUICK_KILLS = 1_000, 3
RESTART_S, LIMIT_S = 8.0, 3600.0
AT_ONCE = 100  # messages that a producer gives at a time


class Killed(Protocol):
    """A daemon as it is needed here."""

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the store's tables, whether the daemon runs or not."""
        ...

    def crash(self) -> None:
        """Kill it with SIGKILL."""
        ...

    def start(self) -> Any:
        """Start it; return when it is ready."""
        ...


def expected_s(run: Run) -> float:
    """Say how long it takes."""
    messages, kills = _size(run)
    return len(BROKERS) * messages * LEARN_S + kills * RESTART_S + 60.0


def measure(run: Run, tools: Tools) -> Json:
    """Run the brokers that are installed, with one daemon, and say what became of each one's messages."""
    messages, kills = _size(run)
    train = run.load().split("train")
    sent = [{"id": f"m{number}", "text": train.texts[number % len(train.texts)], "label": train.labels[number % len(train.texts)]}
            for number in range(messages)]
    with ExitStack() as stack, tools.task(run.name, 1):
        servers = {kind: cls() for kind, cls in BROKERS.items()}
        for server in servers.values():
            stack.callback(server.close)
        absent = [kind for kind, server in servers.items() if server.found() is None]
        servers = {kind: server for kind, server in servers.items() if kind not in absent}
        for server in servers.values():
            server.start()
        tables = "".join(server.table(kind) for kind, server in servers.items())
        daemon = stack.enter_context(Daemon(adapt=False, config=tables))
        until(lambda: _states(daemon) == {"running"}, "all feeds run")  # MQTT keeps nothing for who has not been there yet
        began = time.monotonic()
        amid = killed_while_it_reads(daemon, [*servers.values()], sent, kills, RESTARTS)
        until(lambda: daemon.state()["learn_lag"] == 0, "all is learned", LIMIT_S)
        seconds = time.monotonic() - began
        rows = [{"what": kind, "messages": messages, **what_became(daemon, kind, sent), "kills": amid, "restarts": RESTARTS,
                 "seconds": seconds} for kind in servers]
    return {"rows": rows} | ({"remark": f"Not installed: {', '.join(absent)}."} if absent else {})


def _states(daemon: Daemon) -> set[str]:
    return {feed["state"] for feed in daemon.main.call("GET", "/v1/status")["feeds"].values()}


def _size(run: Run) -> tuple[int, int]:
    return (QUICK_MESSAGES, QUICK_KILLS) if run.quick else (MESSAGES, KILLS)


def killed_while_it_reads(daemon: Killed, servers: Sequence[Server], sent: Sequence[Json], kills: int, restarts: int,
                          limit_s: float = LIMIT_S) -> int:
    """Give each broker the messages, kill the daemon meanwhile, wait until all are journalled.

    After the first kills the brokers are started again, too. Return how many kills came before everything was read.
    """
    publishers = [threading.Thread(target=_publish, args=(one, sent)) for one in servers]
    for publisher in publishers:
        publisher.start()
    total = len(sent) * len(servers)
    amid = _kill(daemon, total, servers, kills, restarts, limit_s)
    for publisher in publishers:
        publisher.join(limit_s)
    until(lambda: events(daemon) >= total, f"all {total} are journalled", limit_s)
    return amid


def events(daemon: Killed) -> int:
    """Return how many events are journalled."""
    return int(daemon.rows("SELECT count(*) FROM event")[0][0])


def what_became(daemon: Killed, source: str, sent: Sequence[Json]) -> Json:
    """Return how many of a broker's messages were learned, how many are lost, and how many were journalled or learned twice."""
    keys = [key for (key,) in daemon.rows("SELECT key FROM event WHERE source = ?", source)]
    learned = [times for (times,) in daemon.rows(
        "SELECT count(*) FROM learned JOIN event ON event.seq = learned.event WHERE event.source = ? GROUP BY event.seq", source)]
    return {"learned": len(learned), "lost": len({one["id"] for one in sent} - {*keys}),
            "twice": len(keys) - len({*keys}) + sum(times > 1 for times in learned)}


def _kill(daemon: Killed, total: int, servers: Sequence[Server], kills: int, restarts: int, limit_s: float) -> int:
    wait, amid = threading.Event(), 0
    for life in range(kills):
        limit = total * (life + 1) // (kills + 2)
        until(lambda: events(daemon) >= limit, f"{limit} are journalled", limit_s, every_s=0.005)  # noqa: B023
        wait.wait(random.uniform(0.0, 0.05))
        daemon.crash()
        amid += events(daemon) < total
        for server in servers if life < restarts else ():
            server.stop()
            server.start()
        daemon.start()
    return amid


def _publish(server: Server, sent: Sequence[Json]) -> None:
    """Give a broker messages, some at a time; what it did not acknowledge is sent again, as a producer must."""
    pause, at = threading.Event(), 0
    while at < len(sent):
        try:
            server.publish(sent[at:at + AT_ONCE])
            at += AT_ONCE
        except Exception:  # each client library has its own errors for a broker that is away
            pause.wait(0.2)
