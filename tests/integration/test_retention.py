"""Retention on a store on the disk: what may lose its files, what never does, and what a crash in between leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from adaptd import registry, restore, retention
from adaptd.errors import Refused

NOW, DAY = 1.8e9, 86_400.0
Add = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "versions"


@pytest.fixture
def add(engine: Engine, folder: Path) -> Add:
    """Return what enters a version with its files into domain 1; ages are in days."""
    with engine.begin() as connection:
        registry.create_domain(connection, "text", "encoder", "config")

    def enter(kind: str, parent: int = 1, age: float = 0.0, decision: str = "", head: bool = True) -> int:
        with engine.begin() as connection:
            number = registry.next_number(connection)
            contents = {"label.adapter": b"a%d" % number} | ({"label.head": b"h"} if head else {})
            registry.add(connection, registry.Version(
                number=number, domain=1, kind=kind, parent=parent, branch=1, seq=number, encoder="encoder", config="config",
                files=registry.publish(folder / str(number), contents), metrics={"labels": 3}, actor="me", reason="",
                verdict={"decision": decision, "reasons": ["r"]} if decision else None, created=NOW - age * DAY))
        return number

    return enter


def outlived(engine: Engine, keep: int = 50, days: float = 90.0) -> list[int]:
    with engine.connect() as connection:
        return sorted(one.number for one in retention.outlived(connection, 1, keep, days, NOW))


def live(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        registry.point(connection, 1, number, 1, "rollback", "me", "")


def expire(engine: Engine, folder: Path, keep: int) -> None:
    with engine.connect() as connection:
        gone = retention.outlived(connection, 1, keep, 90.0, NOW)
    with engine.begin() as connection:
        retention.mark(connection, 1, gone, NOW)
    with engine.connect() as connection:
        retention.sweep(connection, 1, folder)


def test_saved_versions_grow_old_by_count_and_by_age(engine: Engine, add: Add) -> None:
    old, *young = [add("saved", age=100.0), *(add("saved", age=10.0) for _ in range(4))]
    assert outlived(engine) == [old]
    assert outlived(engine, keep=2) == [old, *young[:2]]
    assert outlived(engine, days=5.0) == [old, *young]
    assert outlived(engine, days=101.0) == []


def test_only_candidates_that_no_gate_promoted_grow_old(engine: Engine, add: Add) -> None:
    rejected = add("candidate", age=100.0, decision="reject", head=False)
    undecided = add("candidate", age=100.0, decision="undecided", head=False)
    add("candidate", age=100.0, decision="promote", head=False)
    add("candidate", age=100.0, decision="reject")  # made live by force: it has solved heads
    assert outlived(engine) == [rejected, undecided]


def test_the_live_version_its_ancestors_and_snapshots_never_do(engine: Engine, add: Add) -> None:
    first = add("saved", age=300.0)
    second = add("candidate", first, 200.0, "promote")
    third = add("saved", second, 200.0)
    fourth = add("saved", third, 150.0)
    add("snapshot", first, 400.0)
    aside = add("saved", first, 300.0)
    live(engine, fourth)
    assert outlived(engine, keep=1) == [aside]
    live(engine, second)
    assert outlived(engine, keep=1) == [third, fourth, aside]


def test_a_version_without_files_keeps_its_row_and_is_refused_with_words(engine: Engine, add: Add, folder: Path) -> None:
    kept, gone = add("snapshot"), add("saved", age=100.0)
    live(engine, kept)
    expire(engine, folder, keep=50)
    with engine.connect() as connection:
        row = registry.version(connection, gone)
        assert (row.files, row.metrics["labels"], row.kind) == ({}, 3, "saved")
        with pytest.raises(Refused, match="its files are gone"):
            registry.check_restorable(row)
    assert sorted(path.name for path in folder.iterdir()) == [str(kept)]
    assert outlived(engine, keep=1) == []


def test_no_row_names_a_file_that_is_gone_wherever_a_crash_comes(engine: Engine, add: Add, folder: Path) -> None:
    """Between the mark and the files the folders are still there, and the next turn takes them."""
    numbers = [add("saved", age=100.0) for _ in range(3)]
    with engine.connect() as connection:
        gone = retention.outlived(connection, 1, 50, 90.0, NOW)
    assert all((folder / str(number)).is_dir() for number in numbers)
    with engine.begin() as connection:
        retention.mark(connection, 1, gone, NOW)
    (folder / str(numbers[0]) / "label.head").unlink()  # amid the removal
    with engine.connect() as connection:
        for one in registry.versions(connection, 1):
            assert set(registry.read(folder / str(one.number), one.files)) == set(one.files)
    expire(engine, folder, keep=50)
    assert list(folder.iterdir()) == []


def test_a_start_steps_over_an_ancestor_without_files(engine: Engine, add: Add, folder: Path) -> None:
    sound, gone = add("snapshot"), 0
    gone = add("saved", sound, 100.0)
    last = add("snapshot", gone)
    expire(engine, folder, keep=50)
    (folder / str(last) / "label.head").write_bytes(b"rot")
    told: list[Any] = []
    with engine.connect() as connection:
        found, contents = restore.sound(connection, last, folder, lambda *words: told.append(words))
    assert found.number == sound and contents["label.head"] == b"h" and len(told) == 2
