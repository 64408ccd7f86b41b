"""Each kind of file truncated, with a bit flipped, or gone: derived ones are made again, truth is refused by name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import Json, flip, newest
from tests.crash.fork import CONFIG, Forked
from tests.crash.invariants import Truth, violations
from tests.integration.store import contents

pytestmark = pytest.mark.crash
ASKED = ("label0 word1", "label3 word7", "label5 word2")
DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "one bit flipped": lambda file: flip(file, file.stat().st_size // 2),
    "gone": lambda file: file.unlink(),
}


def teach(daemon: Forked, prefix: str) -> None:
    """Teach 90 events."""
    daemon.teach([{"id": f"{prefix}{n}", "text": f"label{n % 6} word{n % 11}", "label": f"label {n % 6}"} for n in range(90)])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Json]]]:
    """Return a store that was stopped and one that was killed, each with what it answered."""
    found = {}
    config = CONFIG.replace("tcp = false", "port = 0")
    for how in ("stopped", "killed"):
        folder = tmp_path_factory.mktemp(how)
        with Forked(config) as daemon:
            daemon.start()
            teach(daemon, "a")
            daemon.post("text/snapshot")
            teach(daemon, "b")
            daemon.post("text/snapshot")
            said = {"version": daemon.domain()["version"], "memory": daemon.domain()["memory"], "scores": daemon.scores(ASKED)}
            daemon.stop() if how == "stopped" else daemon.crash()
            shutil.copytree(daemon.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        found[how] = folder, said
    yield found


def _checkpoint(name: str) -> Callable[[Path], Path]:
    return lambda folder: next(newest(folder / "checkpoints" / "text")) / name


def _version(name: str) -> Callable[[Path], Path]:
    return lambda folder: next(newest(folder / "versions")) / name


DERIVED: dict[str, Callable[[Path], Path]] = {
    "sums of a checkpoint": _checkpoint("label.sums"), "index of a checkpoint": _checkpoint("label.keys"),
    "head of a checkpoint": _checkpoint("label.head"), "manifest of a checkpoint": _checkpoint("manifest.json"),
    "token": lambda folder: folder / "token", "lock": lambda folder: folder / "adaptd.lock",
    "shared memory": lambda folder: folder / "adaptd.db-shm"}
TRUTH: dict[str, Callable[[Path], Path]] = {"adapter of the live version": _version("label.adapter"),
                                            "head of the live version": _version("label.head")}


@pytest.fixture
def copy(stores: dict[str, tuple[Path, Json]]) -> Iterator[Callable[[str], tuple[Forked, Json]]]:
    """Return a maker of a daemon on a copy of a store, and of what the store answered."""
    made: list[Forked] = []

    def of(how: str) -> tuple[Forked, Json]:
        folder, said = stores[how]
        made.append(Forked(folder=_fresh(folder)))
        return made[-1], said

    yield of
    for daemon in made:
        daemon.__exit__()


def _fresh(folder: Path) -> Path:
    target = Path(tempfile.mkdtemp(prefix="adaptd-"))
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


@pytest.mark.parametrize(("kind", "damage"), [
    *((kind, damage) for kind in DERIVED if "checkpoint" in kind for damage in ("truncated", "one bit flipped")),
    ("head of a checkpoint", "gone"), ("lock", "emptied"), ("lock", "gone"), ("shared memory", "one bit flipped"),
    ("shared memory", "gone"), ("token", "emptied"), ("token", "gone")])
def test_what_is_derived_is_made_again(copy: Callable[[str], tuple[Forked, Json]], kind: str, damage: str) -> None:
    daemon, said = copy("killed" if kind == "shared memory" else "stopped")
    DAMAGES[damage](DERIVED[kind](daemon.folder))
    daemon.start()
    assert (daemon.domain()["version"], daemon.domain()["memory"]) == (said["version"], said["memory"])
    for (label, scores), (wanted, before) in zip(daemon.scores(ASKED), said["scores"], strict=True):
        assert label == wanted and scores == pytest.approx(before, abs=1e-4)
    assert daemon.over_tcp("GET", "/v1/status", daemon.paths.token.read_text(errors="replace").strip())[0] == 200
    assert daemon.stop() == 0
    assert violations(daemon.paths, Truth()) == []


@pytest.mark.parametrize("damage", ["truncated", "one bit flipped", "gone"])
@pytest.mark.parametrize("kind", TRUTH)
def test_a_damaged_version_is_refused_by_name_and_its_ancestor_answers(copy: Callable[[str], tuple[Forked, Json]], kind: str,
                                                                       damage: str) -> None:
    daemon, said = copy("stopped")
    DAMAGES[damage](TRUTH[kind](daemon.folder))
    daemon.start()
    assert f"version {said['version']} was refused" in daemon.problems()["corrupt_version"]
    assert (daemon.domain()["version"], daemon.domain()["memory"]) == (said["version"] - 1, said["memory"])
    assert [label for label, _ in daemon.scores(ASKED)] == [label for label, _ in said["scores"]]


@pytest.mark.parametrize(("damage", "words"), [("truncated", "damaged"), ("emptied", "lost"), ("gone", "lost")])
def test_a_damaged_database_is_refused_and_nothing_is_touched(copy: Callable[[str], tuple[Forked, Json]], damage: str,
                                                              words: str) -> None:
    daemon, _ = copy("stopped")
    DAMAGES[damage](daemon.paths.database)
    before = contents(daemon.folder)
    daemon.spawn()
    assert daemon.wait() == 3 and words in daemon.said and "restore the newest backup" in daemon.said
    assert "Traceback" not in daemon.said
    after = contents(daemon.folder)
    assert {name for name in before if before[name] != after.get(name)} <= {"adaptd.lock", "adaptd.db-shm", "adaptd.db-wal"}


def test_a_damaged_token_is_refused_with_the_cure(copy: Callable[[str], tuple[Forked, Json]]) -> None:
    daemon, _ = copy("stopped")
    flip(daemon.paths.token, 9)
    daemon.spawn()
    assert daemon.wait() == 78 and "remove it" in daemon.said and "Traceback" not in daemon.said


@pytest.mark.parametrize("damage", ["truncated", "emptied", "one bit flipped", "gone"])
def test_of_a_damaged_write_ahead_log_the_part_before_the_damage_is_kept(copy: Callable[[str], tuple[Forked, Json]],
                                                                         damage: str) -> None:
    daemon, said = copy("killed")
    DAMAGES[damage](daemon.paths.database.with_name("adaptd.db-wal"))
    daemon.spawn()
    ended = _ready_or_ended(daemon)
    if ended is not None:  # what was checkpointed into the database is not a store yet
        assert ended == 3 and "Traceback" not in daemon.said
        return
    assert daemon.domain()["memory"] <= said["memory"]
    daemon.crash()
    assert violations(daemon.paths, Truth()) == []  # also of a checkpoint that knows more than what was kept


def _ready_or_ended(daemon: Forked) -> int | None:
    try:
        daemon.start()
    except AssertionError:
        return daemon.wait()
    return None


@pytest.mark.parametrize("damage", ["truncated", "one bit flipped"])
def test_a_damaged_configuration_is_refused_by_line(copy: Callable[[str], tuple[Forked, Json]], damage: str) -> None:
    daemon, _ = copy("stopped")
    file = daemon.paths.config
    flip(file, 3) if damage == "one bit flipped" else os.truncate(file, file.stat().st_size - 8)
    daemon.spawn()
    assert daemon.wait() == 78 and str(file) in daemon.said and "Traceback" not in daemon.said
