"""What a machine does to a daemon: its disk fills up, fails, slows down, goes read-only; its clock jumps; it is suspended.

In each case: nothing that was acknowledged is lost, what cannot be taken is not acknowledged, and when the cause has
gone the daemon (started again where it has ended) goes on.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from adaptd.errors import AdaptdError
from tests.acceptance.daemon import Daemon, Json, lesson, until
from tests.acceptance.test_faults import trainer
from tests.conftest import missing
from tests.crash.fork import CONFIG, Forked
from tests.crash.rig import Rig, rig
from tests.crash.world import World

pytestmark = pytest.mark.crash
CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
LONG = "x" * 50_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return a started daemon and its world."""
    with Forked() as daemon:
        made = World(daemon, 1)
        made.start()
        yield made


def ends_well(world: World) -> None:
    """Start it again where it has ended; everything that was acknowledged is there, and more is taken."""
    if world.daemon.process is None or world.daemon.process.poll() is not None:
        world.check()
        world.start()
    assert world.post("a") and world.teach("teacher") and world.snapshot()
    world.kill()
    world.check()
    world.report("in the end")


@contextmanager
def injected(world: World, calls: str, how: str) -> Iterator[None]:
    """Let system calls of the running daemon fail or wait, as strace does it."""
    if shutil.which("strace") is None:
        missing("strace")
    assert world.daemon.process is not None
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(world.daemon.process.pid), "-e", f"trace={calls}",
             "-e", f"inject={calls}:{how}"]
    tracer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{world.daemon.process.pid}/status")
    until(lambda: "TracerPid:\t0" not in status.read_text(), "it is traced")
    try:
        yield
    finally:
        if "KILL" in how:  # of a process whose threads are traced and dead it would wait for ever
            tracer.kill()
        tracer.terminate()
        tracer.wait(30)


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_killed_inside_a_commit_at_any_system_call_nothing_is_lost(world: World, call: str) -> None:
    for number in range(1, 8):
        if world.daemon.process.poll() is not None:
            world.start()
        with injected(world, call, f"signal=KILL:when={number}"):
            while world.post("a") and world.teach("teacher"):
                pass
        world.daemon.process.wait(60)
        world.check()
    ends_well(world)


def test_a_failed_fsync_ends_the_daemon_and_its_batch_is_not_acknowledged(world: World) -> None:
    with injected(world, "fdatasync", "error=EIO:when=3"):
        while world.post("a"):
            pass
        assert world.daemon.wait() == 1
    assert "the journal could not be written" in world.daemon.said and "Traceback" not in world.daemon.said
    ends_well(world)


def test_a_disk_that_takes_200_ms_a_sync_is_slow_and_nothing_worse(world: World) -> None:
    with injected(world, "fdatasync", "delay_enter=200000"):
        for _ in range(5):
            assert world.post("a") and world.teach("teacher")
        assert world.snapshot()
        assert world.daemon.ask("GET", "/healthz")[0] == 200
    assert world.daemon.problems() == {}
    ends_well(world)


@contextmanager
def on_disk(mebibytes: int, feed: Path, mark_mb: int = 0) -> Iterator[tuple[World, Rig]]:
    """Yield a world on a disk of its own, with or without a mark at which intake stops."""
    with rig(mebibytes=mebibytes) as disk:
        store = disk.root / "store"
        store.mkdir()
        config = CONFIG.replace("feed.jsonl", str(feed)).replace("free_mb = 0", f"free_mb = {mark_mb}")
        with Forked(config, store, said=feed.with_name("stderr")) as daemon:
            made = World(daemon, 1, feed)
            made.start()
            yield made, disk


def test_a_full_disk_loses_nothing_and_with_room_the_daemon_goes_on(tmp_path: Path) -> None:
    with on_disk(16, tmp_path / "feed.jsonl") as (world, disk):
        (disk.root / "others").write_bytes(bytes(4 << 20))  # somebody else's file
        while world.post("a", about=LONG):
            pass
        assert world.daemon.wait() == 1
        assert "full" in world.daemon.said and "Traceback" not in world.daemon.said
        (disk.root / "others").unlink()
        ends_well(world)


def test_at_the_mark_intake_stops_and_answers_go_on_until_there_is_room(tmp_path: Path) -> None:
    with on_disk(64, tmp_path / "feed.jsonl", mark_mb=16) as (world, disk):
        ask = partial(world.daemon.ask, "POST")
        assert world.post("a") and world.teach("teacher")
        filler = disk.root / "others"
        filler.write_bytes(bytes(shutil.disk_usage(disk.root).free - (8 << 20)))  # somebody else's file

        def refused() -> bool:
            return ask("/v1/text/events", [{"text": "one more", "label": "a"}])[0] == 503

        until(refused, "the daemon has looked at its disk")
        status, told = ask("/v1/text/feedback", [{"event": "x", "label": "a"}])
        assert (status, told["error"]["code"]) == (503, "disk_low") and "free" in told["error"]["message"]
        assert ask("/v1/text/predict", {"inputs": [{"text": "one more"}]})[0] == 200
        problems = world.daemon.ask("GET", "/v1/status")[1]["problems"]
        assert "disk_low" in {problem["code"] for problem in problems}
        assert world.snapshot()  # room is left for what an operator does
        filler.unlink()
        until(lambda: not refused(), "it takes events again, by itself")
        ends_well(world)


def test_a_disk_that_goes_read_only_ends_the_daemon_and_it_starts_again_when_it_is_writable(tmp_path: Path) -> None:
    with on_disk(64, tmp_path / "feed.jsonl") as (world, disk):
        assert world.post("a")
        disk.fail()
        while world.post("a"):
            pass
        assert world.daemon.wait() == 1
        world.daemon.spawn()
        assert world.daemon.wait() == 3
        assert "not writable" in world.daemon.said and "Traceback" not in world.daemon.said
        disk.unmount()
        disk.mount()
        ends_well(world)


def test_a_database_that_is_gone_for_a_while_is_told_and_nothing_is_lost(world: World) -> None:
    paths = world.daemon.paths
    assert world.post("a") and world.teach("teacher")
    aside = [(paths.database.with_name(paths.database.name + end), paths.state / f"aside{end}") for end in ("", "-wal", "-shm")]
    for file, elsewhere in aside:
        file.rename(elsewhere)
    status, told = world.daemon.ask("GET", "/v1/text/versions")
    assert status == 503 and told["error"]["hint"], told
    for file, elsewhere in aside:
        elsewhere.rename(file)
    until(lambda: world.daemon.process.poll() is not None or world.daemon.ask("GET", "/v1/text/versions")[0] == 200, "it is back")
    ends_well(world)


# -- the clock and the process ----------------------------------------------------------------------------------------


def test_a_clock_that_jumps_forward_and_back_changes_no_order_and_starts_nothing(tmp_path: Path) -> None:
    if not CLOCK.exists():
        missing("libfaketime")
    clock = tmp_path / "clock"
    clock.write_text("+0s")
    faked = {"LD_PRELOAD": str(CLOCK), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
             "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with Daemon('[adapt]\nevery = "6h"\nevery_labels = 0\nmin_labels = 2\n[http]\ntcp = false\n') as daemon:
        daemon.start(**faked)
        snapshots = []
        for turn, jump in enumerate(("+0s", "+3600s", "-3600s", "+86400s", "-86400s", "+0s")):
            clock.write_text(jump)
            daemon.teach(lesson(["card", "weather"], 4, prefix=f"{turn}-"))
            snapshots.append(daemon.post("text/snapshot")["version"])
            status = daemon.status()
            assert status["state"] == "running" and status["uptime_s"] >= 0 and status["problems"] == []
            assert status["domains"]["text"]["adapting"] is None
            if jump == "-86400s":  # what runs each few seconds does not wait for a day
                scheduler_turns(daemon)
        received = [at for (at,) in daemon.rows("SELECT received FROM event ORDER BY seq")]
        assert received != sorted(received)  # the clock did jump
        assert snapshots == sorted(snapshots) and daemon.domain()["memory"] == 48
        then = daemon.scores(["my credit card"])
        daemon.crash()
        assert daemon.start(**faked).scores(["my credit card"]) == then
        daemon.post("text/rollback", {"to": snapshots[0]})
        assert daemon.domain()["memory"] == 8


def test_a_suspended_daemon_goes_on_where_it_was(world: World) -> None:
    assert world.post("a")
    world.daemon.signal(signal.SIGSTOP)
    with pytest.raises(AdaptdError):
        world.daemon.client.exchange("GET", "/healthz", timeout_s=2.0)
    world.daemon.signal(signal.SIGCONT)
    assert world.daemon.ask("GET", "/healthz")[0] == 200 and world.daemon.problems() == {}
    ends_well(world)


def test_a_trainer_without_memory_fails_alone(world: World) -> None:
    daemon = world.daemon
    while len(world.truth.labels) < 40:
        world.post("a")
    daemon.post("text/adapt", {"wait": False})
    child = until(lambda: trainer(daemon), "it trains", every_s=0.001)
    resource.prlimit(child.pid, resource.RLIMIT_AS, (200 << 20, 200 << 20))
    verdict = until(lambda: daemon.domain()["last_verdict"], "the adaptation failed")
    assert verdict["verdict"] == "failed" and "adaptation_failed" in daemon.problems()
    until(lambda: not list(daemon.paths.jobs.iterdir()), "its folder is removed")
    ends_well(world)


def test_a_daemon_without_file_descriptors_refuses_and_recovers(world: World) -> None:
    assert world.post("a")
    pid = world.daemon.process.pid
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    with ExitStack() as stack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 4, usual[1]))
        for _ in range(12):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(world.daemon.paths.socket))
        with pytest.raises(AdaptdError):
            world.daemon.client.exchange("GET", "/healthz", timeout_s=1.0)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    until(lambda: _answers(world.daemon), "it answers again")
    ends_well(world)


def scheduler_turns(daemon: Daemon) -> None:
    """Wait until the scheduler shows that it turns."""
    now = time.monotonic()

    def turned() -> bool:
        age_s = daemon.ask("GET", "/v1/health")[1]["parts"]["scheduler"]["age_s"]
        return time.monotonic() - float(age_s) > now

    until(turned, "the scheduler turns")


def _answers(daemon: Daemon) -> Json | None:
    try:
        return daemon.status() if daemon.process is not None and daemon.process.poll() is None else {"ended": True}
    except AdaptdError:
        return None
