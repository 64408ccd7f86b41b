"""A real daemon under a real stream, killed with SIGKILL at random instants and at every named point."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable

import pytest
from sqlalchemy import insert, select

from adaptd import db
from adaptd import tables as t
from adaptd.errors import AdaptdError
from tests.crash.fork import Forked
from tests.crash.world import World
from tests.postgres import database, unlocked

pytestmark = pytest.mark.crash
KILLS = int(os.environ.get("CRASH_KILLS", "200"))
STORES = 4
POSTGRES_KILLS = int(os.environ.get("CRASH_POSTGRES_KILLS", "25"))
SEED = int(os.environ.get("CRASH_SEED", random.randrange(1 << 30)))


@pytest.mark.timeout(10 * KILLS)
@pytest.mark.parametrize("store", range(STORES))
def test_killed_at_random_instants_nothing_is_lost_and_nothing_counts_twice(store: int) -> None:
    with Forked() as daemon:
        _killed_at_random(daemon, SEED + store, KILLS // STORES)


@pytest.mark.service
@pytest.mark.timeout(60 + 10 * POSTGRES_KILLS)
def test_killed_at_random_instants_a_store_in_postgresql_loses_nothing() -> None:
    with database() as url, Forked(url=url) as daemon:
        _killed_at_random(daemon, SEED, POSTGRES_KILLS)


def _killed_at_random(daemon: Forked, seed: int, kills: int) -> None:
    world = World(daemon, seed)
    for kill in range(kills):
        if kill % 5 == 4:  # amid a start
            daemon.spawn()
            world.pause(world.random.uniform(0.0, 0.5))
            world.kill()
        else:
            world.start()
            world.live(world.random.uniform(0.0, 0.5))
        world.check()
    world.start()
    assert daemon.stop() == 0, daemon.said
    world.check()
    world.report(f"{kills} kills at random instants, seed {seed}")


OPERATIONS: dict[str, Callable[[World], object]] = {
    "events": lambda world: world.post("a"),
    "an answer and its label": lambda world: world.teach("teacher"),
    "lines of a feed": World.follow,
    "a snapshot": World.snapshot,
    "a rollback": World.rollback,
    "a promotion": World.promote,
    "a forget": World.forget,
    "a stop": lambda world: world.daemon.stop(),
    "a start": World.start,
}
if os.environ.get("CRASH_ADAPT"):  # its training and its evaluation are processes that import torch: half an hour
    OPERATIONS["an adaptation"] = World.adapt
ON_POSTGRES = [*OPERATIONS] if os.environ.get("CRASH_POSTGRES") else ["a snapshot"]  # all of them: as long again as on SQLite


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_every_named_point_the_store_is_before_it_or_after_it(operation: str) -> None:
    with Forked(points=True) as daemon:
        _killed_at_every_point(daemon, operation)


@pytest.mark.service
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", ON_POSTGRES)
def test_killed_at_every_named_point_a_store_in_postgresql_is_before_it_or_after_it(operation: str) -> None:
    with database() as url, Forked(points=True, url=url) as daemon:
        _killed_at_every_point(daemon, operation)


def _killed_at_every_point(daemon: Forked, operation: str) -> None:
    world = World(daemon, SEED)
    if operation == "a promotion":
        _enter_candidates(world, 45)  # [versions] keeps 50
    arming = itertools.count(1)
    while _is_killed(world, operation, next(arming)):
        world.check()
    world.kill()
    world.check()
    world.report(f"{operation}: killed at {len(daemon.killed_at)} points: {'; '.join(daemon.killed_at)}")
    assert {"before commit #1", "after commit #1"} <= set(daemon.killed_at)


def _is_killed(world: World, operation: str, arming: int) -> bool:
    """Let the daemon do something and kill itself at a new point of it; return False when there is none left."""
    daemon = world.daemon
    daemon.arm(arming if operation == "a start" else 0)
    if operation != "a start":
        world.start()
        while world.post("a") and not world.forgettable():  # something that may be lost
            pass
        daemon.settled()
        daemon.arm(arming)
    try:
        OPERATIONS[operation](world)
        daemon.settled()
        return False
    except (AdaptdError, AssertionError):  # no answer: it is dead, or about to be
        return daemon.wait() == -signal.SIGKILL


def _enter_candidates(world: World, number: int) -> None:
    """Let an adaptation make one, and enter it under more numbers, to be promoted one after the other."""
    daemon = world.daemon
    world.start()
    while len(world.truth.labels) < 60:
        world.post("a")
    made = daemon.post("text/adapt", {"wait": True})
    assert made["verdict"] == "undecided", made  # there is nothing to judge it by
    world.truth.live = daemon.domain()["version"]
    assert daemon.stop() == 0
    engine = unlocked(daemon.paths.url) if daemon.paths.url else db.writing_engine(daemon.paths.database)
    with engine.begin() as connection:
        row = connection.execute(select(t.version).where(t.version.c.number == made["version"])).one()
        for copy in range(made["version"] + 1, made["version"] + number):
            shutil.copytree(daemon.paths.versions / str(made["version"]), daemon.paths.versions / str(copy))
            connection.execute(insert(t.version).values(**{**row._mapping, "number": copy}))
    engine.dispose()
