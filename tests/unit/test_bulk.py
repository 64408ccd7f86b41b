"""Large batches go through a door in a process of its own: the same comes out, and its end is felt by nobody."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from adaptd import bulk, doorkeeper
from adaptd.bulk import LEAST, Bulk
from adaptd.config import DomainSettings, Settings
from adaptd.errors import Busy, PluginError
from adaptd.ingest import Door
from adaptd.records import STORED
from adaptd.strictjson import Unread
from adaptd.text import Text

KEY = b"k" * 32
SETTINGS = Settings(domains={"text": DomainSettings(), "desk": DomainSettings.model_validate(
    {"kind": "text", "redact": {"entities": ["email"]}})})
BATCH: list[Any] = [
    *({"id": number, "text": f"text {number}"} for number in range(LEAST)),
    {"text": "ä \U0001f600 \0", "label": "card", "time": 1.5, "source": "crm", "subject": "s", "answer": {"label": "music"}},
    {"text": "mine is ada@example.org", "id": "x", "more": [1, 1.0, -0.0, None, {"deep": [True]}], "time": -0.0},
    {"text": "北京", "id": 7, "label": "1", "time": 1, "answer": {"label": "1", "confidence": 1}},
    {"text": "half \ud800"}, {"text": ""}, {"id": "no text"}, "no object", {"text": "too far", "time": 1e12}]


def door(name: str, folder: Path) -> Door:
    return Door.of(Text(), name, SETTINGS.domains[name], SETTINGS.limits, SETTINGS.blobs, KEY, folder)


def run(test: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(test, 120))


def made() -> Bulk:
    return Bulk(partial(doorkeeper.job, SETTINGS, KEY, Path()), 1000)


async def ready(started: Bulk) -> Any:
    """Return the process of one that is ready."""
    assert await started.items("text", BATCH, "http") is None, "while it starts the daemon's own door does it"
    assert started._starting is not None
    await started._starting
    assert started._child is not None
    return started._child


@pytest.mark.parametrize("name", ["text", "desk"])
def test_what_comes_out_is_what_the_daemons_own_door_says(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        through = await started.items(name, BATCH, "http")
        assert through is not None
        items, rejected = door(name, tmp_path).items(BATCH, source="http")
        places, columns, refused = through
        assert places == [at for at, _ in items] and refused == rejected and len(rejected) == 5
        for one, (_, other) in zip(columns, items, strict=True):
            assert [repr(getattr(one, what)) for what in STORED] == [repr(getattr(other, what)) for what in STORED]
        assert ("ada@example.org" in [*columns][-2].text) == (name == "text")
        assert await started.items(name, BATCH[:LEAST - 1], "http") is None, "small batches stay"
        await started.close()
        assert not psutil.pid_exists(child.pid)

    run(test())


def body(elements: Any) -> Unread:
    def read(_: bytes) -> Any:
        raise AssertionError("the daemon read it, too")

    return Unread(json.dumps(elements).encode(), read, SETTINGS.limits.items)


def test_a_body_is_read_there_but_for_one_that_is_refused_or_brings_bytes() -> None:
    async def test() -> None:
        started = made()
        await ready(started)
        assert repr(await said(started, body(BATCH))) == repr(await said(started, BATCH))
        left = [{}] * LEAST
        too_many = [{}] * (SETTINGS.limits.items + 1)
        for one in ([*left, {"image": {"$base64": "aaaa"}}], too_many, {"a": left}, [float("nan"), *left]):
            assert await started.items("text", body(one), "http") is None
        assert await started.items("text", body(left[1:]), "http") is None, "small ones stay"
        places, columns, rejected = await said(started, body(left))
        assert not places and not any(columns.values()) and len(rejected) == LEAST, "none is good"
        assert await said(started, body(BATCH)), "it goes on"
        await started.close()

    async def said(started: Bulk, raw: Any) -> Any:
        through = await started.items("text", raw, "http")
        assert through is not None
        return through[0], through[1].of, through[2]

    run(test())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_each_of_several_at_a_time_gets_its_own_answer(loop: Any) -> None:
    async def test() -> None:
        started = Bulk(partial(doorkeeper.job, SETTINGS, KEY, Path()), 100_000)
        await ready(started)
        batches = [[{"text": f"{batch}, {number}: {'x' * 1000}"} for number in range(LEAST + batch)] for batch in range(12)]
        through = await asyncio.gather(*(started.items("text", one, "http") for one in batches))
        for batch, said in zip(batches, through, strict=True):
            assert said is not None and [json.loads(text) for text in said[1].of["text"]] == batch
        await started.close()

    run(test(), loop)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_that_dies_is_done_without_and_started_again(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        os.kill(child.pid, signal.SIGKILL)  # amid a batch, or just before
        assert await started.items("text", BATCH, "http") is None
        monkeypatch.setattr(bulk, "AGAIN_S", 0.0)
        child = await ready(started)
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()  # while nobody asks
        assert (await ready(started)).pid != child.pid
        assert await started.items("text", BATCH, "http") is not None
        await started.close()

    run(test(), loop)


def test_one_that_hangs_is_ended_the_sender_told_and_nobody_else_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        monkeypatch.setattr(bulk, "LIMIT_S", 0.2)
        monkeypatch.setattr(bulk, "EACH_S", 0.0)
        os.kill(child.pid, signal.SIGSTOP)
        first, second = await asyncio.gather(*(started.items("text", BATCH, "http") for _ in "ab"), return_exceptions=True)
        assert isinstance(first, PluginError) and f"took more than 0.2 s over a batch of about {len(BATCH)}" in str(first)
        assert isinstance(second, Busy), "it would hang the daemon"
        assert not psutil.pid_exists(child.pid) and started._starting is not None
        await started._starting
        monkeypatch.setattr(bulk, "LIMIT_S", 30.0)
        assert await started.items("text", BATCH, "http") is not None
        await started.close()

    run(test())


def test_no_more_wait_than_may() -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        os.kill(child.pid, signal.SIGSTOP)
        asked = [asyncio.create_task(started.items("text", BATCH, "http")) for _ in range(1000 // len(BATCH))]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await started.items("text", BATCH, "http")
        os.kill(child.pid, signal.SIGCONT)
        assert all(await asyncio.gather(*asked))
        await started.close()

    run(test())


def test_one_whose_sender_gave_up_answers_nobody_else() -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        os.kill(child.pid, signal.SIGSTOP)
        asked = asyncio.create_task(started.items("text", BATCH, "http"))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await started.close()
        assert await started.items("text", BATCH, "http") is None

    run(test())


def test_an_answer_to_another_batch_is_nobodys() -> None:
    async def test() -> None:
        started = made()
        child = await ready(started)
        child.stdin.write(doorkeeper.framed(doorkeeper.packed([0, "desk", BATCH, "crm"])))  # whose sender has given up
        assert await started.items("text", BATCH, "http") is None, "the daemon's own door does it"
        assert not psutil.pid_exists(child.pid)
        await started.close()

    run(test())


def test_one_that_cannot_start_costs_nothing_but_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        started = Bulk(lambda: b"\xc1", 1000)  # no msgpack
        assert await started.items("text", BATCH, "http") is None and started._starting is not None
        await started._starting
        assert await started.items("text", BATCH, "http") is None
        await started.close()

    run(test())
    assert [record.action for record in caplog.records if record.name == "adaptd.bulk"] == ["no_doorkeeper"]  # type: ignore[attr-defined]
