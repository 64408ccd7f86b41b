"""The power is cut under a real daemon and a real stream: what was acknowledged is on the disk, and whole.

The negative controls show that the rig would find out: without fsync it does.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.fork import CONFIG, Forked
from tests.crash.rig import Rig, rig
from tests.crash.world import World

pytestmark = pytest.mark.crash
CUTS = int(os.environ.get("CRASH_CUTS", "24"))
STORES = 2
CONTROL_CUTS = 12  # within which a missing fsync must have shown
SEED = int(os.environ.get("CRASH_SEED", random.randrange(1 << 30)))


@contextmanager
def world_on(disk: Rig, folder: Path, seed: int, flaws: Sequence[str] = ()) -> Iterator[World]:
    """Yield a world whose store is on the rig, and whose clients, feed and log are not."""
    store, feed = disk.root / "store", folder / "feed.jsonl"
    store.mkdir()
    with Forked(CONFIG.replace("feed.jsonl", str(feed)), store, flaws, said=folder / "stderr") as daemon:
        yield World(daemon, seed, feed)


def live_and_cut(world: World, disk: Rig) -> None:
    """Let everybody work for a time, cut the power amid it, look at what is on the disk."""
    world.live(world.random.uniform(0.1, 1.0), disk.cut)
    disk.unmount()
    disk.mount()
    world.check()


@pytest.mark.timeout(20 * CUTS)
@pytest.mark.parametrize("store", range(STORES))
def test_a_power_cut_takes_nothing_that_was_acknowledged(store: int, tmp_path: Path) -> None:
    kind = os.environ.get("CRASH_FILE_SYSTEM", "ext4")
    with rig(kind) as disk, world_on(disk, tmp_path, SEED + store) as world:
        for _ in range(CUTS // STORES):
            world.start()
            live_and_cut(world, disk)
        world.start()
        world.kill()
        world.check()
        world.report(f"{CUTS // STORES} power cuts on {kind}, seed {SEED + store}")


@pytest.mark.timeout(20 * CONTROL_CUTS)
@pytest.mark.parametrize("flaw", ["synchronous=OFF", "synchronous=NORMAL", "no fsync of files"])
def test_the_rig_finds_out_a_daemon_that_does_not_sync(flaw: str, tmp_path: Path) -> None:
    with rig() as disk, world_on(disk, tmp_path, SEED, [flaw]) as world:
        for cut in range(CONTROL_CUTS):
            world.start()
            disk.sync()  # the store is there: what is lost was acknowledged from here on
            live_and_cut(world, disk)
            if world.wrong:
                print(f"{flaw}: cut {cut + 1} found: {'; '.join(world.wrong)[:300]}")
                return
    pytest.fail(f"{CONTROL_CUTS} power cuts did not show that {flaw}: the rig has no teeth")
