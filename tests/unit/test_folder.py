"""A followed folder: every line of every file once, and a file is put away only when all of it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adaptd.errors import BadConfig
from adaptd.feeds.folder import Folder
from adaptd.interfaces import FeedItem
from adaptd.plugins import build


def put(folder: Path, name: str, *texts: str) -> None:
    (folder / "new").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    (folder / "new").rename(folder / name)


def read(folder: Path, cursor: str | None = None, *, batches: int = 100, **options: Any) -> list[FeedItem]:
    """Read until nothing is new, or so many batches; what was read last is then not committed."""

    async def take() -> list[FeedItem]:
        found: list[FeedItem] = []
        feed = Folder(path=str(folder), poll_s=0.001, **options).read(cursor)
        empty = 0
        async for batch in feed:
            found += batch
            empty = 0 if batch else empty + 1
            if empty == 3 or len(found) >= batches:
                break
        await feed.aclose()  # type: ignore[attr-defined]
        return found

    return asyncio.run(asyncio.wait_for(take(), 20.0))


def texts(items: Sequence[FeedItem]) -> list[str]:
    return [item.value["text"] for item in items]


def test_files_are_read_in_the_order_of_their_names_and_put_away(tmp_path: Path) -> None:
    put(tmp_path, "b.jsonl", "three")
    put(tmp_path, "a.jsonl", "one", "two")
    put(tmp_path, "c.txt", "not ours")
    assert texts(read(tmp_path)) == ["one", "two", "three"]
    assert sorted(one.name for one in (tmp_path / "done").iterdir()) == ["a.jsonl", "b.jsonl"]
    assert Folder(path=str(tmp_path)).lag() == 0
    put(tmp_path, "a.jsonl", "four")
    assert texts(read(tmp_path)) == ["four"] and len([*(tmp_path / "done").iterdir()]) == 3


@pytest.mark.parametrize("taken", [1, 2, 3, 4])
def test_a_restart_goes_on_from_the_cursor_of_any_line(tmp_path: Path, taken: int) -> None:
    """Also where all of a file is committed and it was not put away any more."""
    put(tmp_path, "a.jsonl", "one", "two")
    put(tmp_path, "b.jsonl", "three", "four")
    before = read(tmp_path, batches=taken, batch=1)
    assert len(before) == taken
    put(tmp_path, "0.jsonl", "late")
    after = read(tmp_path, before[-1].cursor)
    assert sorted(texts([*before, *after])) == sorted(["one", "two", "three", "four", "late"])


def test_what_is_not_committed_is_not_put_away_and_comes_again_with_the_same_keys(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", "one", "two")
    first = read(tmp_path, batches=2)
    assert (tmp_path / "a.jsonl").exists()
    assert [item.key for item in read(tmp_path)] == [item.key for item in first]


def test_a_folder_that_is_not_there_is_an_error_and_has_no_lag(tmp_path: Path) -> None:
    feed = Folder(path=str(tmp_path / "none"))
    assert feed.lag() is None
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    for wrong in ({"poll_s": 0}, {"batch": 0}, {"pattern": "a/*.jsonl"}):
        with pytest.raises(BadConfig):
            build(Folder, {"path": str(tmp_path), **wrong}, "feeds.x.options")
