"""The JSONL feed: every whole line once, over restarts, partial lines, truncation and rotation."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adaptd.errors import BadConfig
from adaptd.feeds import jsonl
from adaptd.feeds.jsonl import Jsonl
from adaptd.interfaces import FeedItem
from adaptd.plugins import build, collect, load

WAIT_S = 20.0


class Reader:
    """Reads one batch at a time, as the daemon does; a new one continues from a cursor."""

    def __init__(self, path: Path, cursor: str | None = None, **options: Any) -> None:
        self.feed = Jsonl(path=str(path), poll_s=0.001, **options)
        self.cursor = cursor
        self._loop = asyncio.new_event_loop()
        self._batches = self.feed.read(cursor)

    def batch(self) -> Sequence[FeedItem]:
        async def one() -> Sequence[FeedItem]:
            return await asyncio.wait_for(anext(self._batches), WAIT_S)

        items = self._loop.run_until_complete(one())
        self.cursor = items[-1].cursor if items else self.cursor
        return items

    def texts(self) -> list[str]:
        return [item.value["text"] for item in self.batch()]

    def close(self) -> None:
        self._loop.run_until_complete(self._batches.aclose())
        self._loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def open_reader(path: Path) -> Any:
    readers: list[Reader] = []

    def make(cursor: str | None = None, **options: Any) -> Reader:
        readers.append(Reader(path, cursor, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.close()


def append(path: Path, *texts: str, end: str = "\n") -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in texts) + end)


def add(path: Path, raw: bytes) -> None:
    with open(path, "ab") as file:
        file.write(raw)


def test_lines_are_read_as_they_are_appended(path: Path, open_reader: Any) -> None:
    append(path, "one", "two")
    reader = open_reader()
    assert reader.texts() == ["one", "two"]
    assert reader.texts() == []
    append(path, "three")
    assert reader.texts() == ["three"]


def test_a_partial_last_line_waits_for_its_end(path: Path, open_reader: Any) -> None:
    append(path, "one")
    append(path, "two", end="")
    reader = open_reader()
    assert reader.texts() == ["one"]
    assert reader.texts() == []
    append(path, end="\n")
    assert reader.texts() == ["two"]


def test_a_file_that_is_not_there_yet_is_waited_for(path: Path, open_reader: Any) -> None:
    reader = open_reader()
    assert reader.texts() == [] and reader.feed.lag() is None
    append(path, "one")
    assert reader.texts() == ["one"]


@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_restart_goes_on_from_the_cursor_of_any_line(path: Path, open_reader: Any, read: int) -> None:
    append(path, "one", "two", "three")
    cursor = open_reader().batch()[read - 1].cursor
    append(path, "four")
    assert open_reader(cursor).texts() == ["one", "two", "three", "four"][read:]


def test_batches_are_bounded_and_lag_counts_what_is_left(path: Path, open_reader: Any) -> None:
    append(path, *[str(n) for n in range(10)])
    reader = open_reader(batch=4)
    assert reader.feed.lag() == path.stat().st_size
    assert [len(reader.batch()) for _ in range(4)] == [4, 4, 2, 0]
    assert reader.feed.lag() == 0


def test_a_truncated_file_is_read_from_its_start(path: Path, open_reader: Any) -> None:
    append(path, "one", "two")
    reader = open_reader()
    reader.batch()
    path.write_text("")
    assert reader.texts() == []
    append(path, "three")
    assert reader.texts() == ["three"]


def test_a_file_rewritten_in_place_and_grown_longer_is_noticed_by_its_head(path: Path, open_reader: Any) -> None:
    append(path, "one")
    reader = open_reader()
    reader.batch()
    path.write_text("")
    append(path, "another", "and another")
    assert reader.texts() == ["another", "and another"]


def test_a_replaced_file_is_read_from_its_start(path: Path, open_reader: Any, tmp_path: Path) -> None:
    append(path, "one", "two")
    reader = open_reader()
    reader.batch()
    append(tmp_path / "new", "three")
    os.replace(tmp_path / "new", path)
    assert reader.texts() == ["three"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_rotated_file_is_read_to_its_end_before_the_new_one(path: Path, open_reader: Any, restart: bool) -> None:
    append(path, "one", "two", "three")
    reader = open_reader(batch=1)
    assert reader.texts() == ["one"]
    path.rename(path.with_suffix(".jsonl.1"))
    append(path, "four")
    reader = open_reader(reader.cursor, batch=1) if restart else reader
    assert [reader.texts() for _ in range(4)] == [["two"], ["three"], ["four"], []]


def test_a_writer_that_still_writes_to_the_rotated_file_is_heard_until_the_new_one_has_lines(path: Path,
                                                                                            open_reader: Any) -> None:
    append(path, "one")
    reader = open_reader()
    reader.batch()
    old = path.with_suffix(".jsonl.1")
    path.rename(old)
    path.touch()
    assert reader.texts() == []
    append(old, "two")
    assert reader.texts() == ["two"]
    append(path, "three")
    assert reader.texts() == ["three"]


def test_keys_are_stable(path: Path, open_reader: Any) -> None:
    append(path, "same", "same")
    add(path, b'{"text": "x", "id": "mine"}\n')
    first = [item.key for item in open_reader().batch()]
    assert first == [item.key for item in open_reader().batch()]
    assert len(set(first)) == 3


def test_another_line_in_the_same_place_has_another_id(path: Path, open_reader: Any) -> None:
    """Else a file that was truncated and begun again would give conflicts instead of events."""
    append(path, "one")
    reader = open_reader()
    before = reader.batch()[0].key
    path.write_text("")
    append(path, "two")
    assert reader.batch()[0].key != before


@pytest.mark.parametrize("line, error", [
    (b'{"text": "\xff\xfe"}', "utf-8"),
    (b"{'text': 1}", "not JSON"),
    (b'{"text": NaN}', "NaN is not JSON"),
    (b'["text"]', "not an object"),
    (b"[" * 100_000, "not JSON"),
    (b"9" * 5000, "not JSON"),
    (b"\x00", "not JSON"),
])
def test_a_bad_line_is_kept_with_the_reason_and_the_next_is_read(path: Path, open_reader: Any, line: bytes,
                                                                 error: str) -> None:
    path.write_bytes(line + b'\n{"text": "good"}\n')
    bad, good = open_reader().batch()
    assert bad.value is None and error in bad.error and bad.raw.startswith(line[:100])
    assert good.value["text"] == "good" and good.error is None
    assert [item.value["text"] for item in open_reader(bad.cursor).batch()] == ["good"]


@pytest.mark.parametrize("restart", [False, True])
def test_a_line_without_end_does_not_fill_the_memory(path: Path, open_reader: Any, monkeypatch: pytest.MonkeyPatch,
                                                     restart: bool) -> None:
    monkeypatch.setattr(jsonl, "LINE", 1000)
    path.write_bytes(b"x" * 5000)
    reader = open_reader()
    (bad,) = reader.batch()
    assert "longer than 1000 bytes" in bad.error
    add(path, b"x" * 5000 + b'\n{"text": "good"}\n')
    reader = open_reader(bad.cursor) if restart else reader
    assert reader.texts() == ["good"]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(path: Path, open_reader: Any) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n  \r\n{"text": "two"}\r\n')
    assert open_reader().texts() == ["one", "two"]


def test_without_follow_it_ends_with_the_file_and_takes_an_unfinished_last_line(path: Path) -> None:
    append(path, "one")
    append(path, "two", end="")

    async def everything() -> list[str]:
        return [item.value["text"] async for batch in Jsonl(path=str(path), follow=False).read(None) for item in batch]

    assert asyncio.run(asyncio.wait_for(everything(), WAIT_S)) == ["one", "two"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_at_start(path: Path, make: Any) -> None:
    make(path)
    with pytest.raises(BadConfig, match="not a regular file") as refused:
        Jsonl(path=str(path))
    assert refused.value.field == "path" and refused.value.hint


def test_a_fifo_that_takes_the_file_s_place_does_not_block(path: Path, open_reader: Any) -> None:
    append(path, "one")
    reader = open_reader()
    reader.batch()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadConfig, match="not a regular file"):
        reader.batch()


def test_the_feed_comes_through_the_plugins_door_with_its_options(path: Path) -> None:
    kind = collect(load("adaptd", []), "register_feeds")["jsonl"]
    assert build(kind, {"path": str(path), "batch": 7}, "feeds.x.options").batch == 7
    with pytest.raises(BadConfig) as unknown:
        build(kind, {"pth": str(path)}, "feeds.x.options")
    assert unknown.value.hint == "did you mean 'path'? options: path, follow, poll_s, batch"
    for wrong in ({"path": str(path), "poll_s": 0}, {"path": str(path), "batch": 0}, {"path": 5}, {}):
        with pytest.raises(BadConfig):
            build(kind, wrong, "feeds.x.options")
