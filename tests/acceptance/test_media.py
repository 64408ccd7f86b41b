"""Images and sounds through a real daemon: sent, learned, kept, copied, proved and forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adaptd import backup
from tests import tiny
from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance
COLOURS = {"red": (250, 0, 0), "blue": (0, 0, 250), "green": (0, 200, 0)}
TONES = {"low": 300.0, "high": 3000.0}
CONFIG = """
[plugins]
allow = ["adaptd-vision", "adaptd-speech"]
""" + tiny.SENSES + """
[domains.vision]
encoder = "eyes"
[domains.speech]
encoder = "ears"
[domains.meter]
kind = "numeric"
encoder = "numbers"
[blobs]
folders = ["pictures"]
[adapt]
enabled = false
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return CONFIG.format(vit=tiny.vit(tmp_path_factory.mktemp("vit")), whisper=tiny.whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture
def daemon(config: str) -> Iterator[Daemon]:
    with Daemon(config) as made:
        (made.folder / "pictures").mkdir()
        yield made.start()


def picture(label: str, noise: int) -> bytes:
    return tiny.square(*COLOURS[label], noise=noise)


def images(*labels: str, each: int = 5) -> list[dict[str, Any]]:
    return [{"id": f"{label}-{n}", "image": tiny.sent(picture(label, n)), "label": label}
            for n in range(each) for label in labels]


def seen(daemon: Daemon, label: str, noise: int = 99) -> Any:
    return daemon.post("vision/predict", {"inputs": [{"image": tiny.sent(picture(label, noise))}]})["predictions"][0]["label"]


def test_images_sounds_and_numbers_are_learned_side_by_side_and_without_a_text_model(daemon: Daemon) -> None:
    assert sorted(daemon.status()["domains"]) == ["meter", "speech", "vision"]
    daemon.teach(images("red", "blue"), "vision")
    assert [seen(daemon, "red"), seen(daemon, "blue")] == ["red", "blue"]
    daemon.teach(images("green"), "vision")  # a new class, at once
    assert [seen(daemon, label) for label in COLOURS] == list(COLOURS)
    daemon.teach([{"audio": tiny.sent(tiny.tone(hertz, noise=n)), "label": label}
                  for n in range(5) for label, hertz in TONES.items()], "speech")
    asked = [{"audio": tiny.sent(tiny.tone(hertz, noise=99))} for hertz in TONES.values()]
    assert [p["label"] for p in daemon.post("speech/predict", {"inputs": asked})["predictions"]] == list(TONES)
    daemon.teach([{"load": load + n / 10, "site": site, "label": site + ("+" if load > 5 else "-")}
                  for n in range(5) for load in (1, 9) for site in ("a", "b")], "meter")
    asked = [{"load": "1.2", "site": "a"}, {"load": 9.3, "site": "b"}]
    assert [p["label"] for p in daemon.post("meter/predict", {"inputs": asked})["predictions"]] == ["a-", "b+"]
    daemon.restart()
    assert [seen(daemon, label) for label in COLOURS] == list(COLOURS)


def test_an_image_may_be_named_by_its_path_below_an_allowed_folder(daemon: Daemon) -> None:
    (daemon.folder / "pictures" / "a.png").write_bytes(picture("red", 1))
    assert daemon.post("vision/events", [{"image": {"$path": "a.png"}, "label": "red"}], 202)["accepted"] == 1
    (daemon.folder / "pictures" / "a.png").unlink()
    refused = daemon.post("vision/events", [{"image": {"$path": "../token"}, "label": "red"}], 422)["rejected"][0]["error"]
    assert refused["field"] == "image" and "blobs.folders" in refused["hint"]
    daemon.restart()  # the bytes are the store's
    assert seen(daemon, "red") == "red"


def test_of_a_batch_the_unreadable_images_are_refused_and_nothing_is_learned_of_them(daemon: Daemon) -> None:
    broken = {"image": tiny.sent(picture("red", 1)[:80]), "label": "red"}
    done = daemon.post("vision/events", [broken, *images("red", each=1), {"image": "red", "label": "red"}, {"label": "red"}], 202)
    assert [one["index"] for one in done["rejected"]] == [0, 2, 3] and done["accepted"] == 1
    assert all(one["error"]["field"] == "image" and one["error"]["hint"] for one in done["rejected"])
    assert daemon.rows("SELECT count(*) FROM blob") == [(1,)]


def test_equal_bytes_are_kept_once_and_go_with_the_last_event_that_has_them(daemon: Daemon) -> None:
    one = {"image": tiny.sent(picture("red", 1)), "label": "red"}
    events = daemon.post("vision/events", [one, one], 202)["events"]
    daemon.teach(images("blue", each=2), "vision")
    held = [daemon.rows("SELECT count(*) FROM blob")]
    for event in events:
        daemon.post("vision/forget", {"event": event})
        held.append(daemon.rows("SELECT count(*) FROM blob"))
    assert held == [[(3,)], [(3,)], [(2,)]]
    assert daemon.stop() == 0
    needle = picture("red", 1)[60:100]
    assert not any(needle in file.read_bytes() for file in daemon.folder.rglob("*") if file.is_file())


def test_a_backup_and_a_copy_have_the_images_and_verify_notices_a_changed_one(daemon: Daemon, tmp_path: Path) -> None:
    daemon.teach(images("red", "blue"), "vision")
    daemon.cli("backup", str(tmp_path / "b.tar.gz"))
    assert daemon.stop() == 0
    daemon.cli("db", "copy", "--to", f"sqlite:///{tmp_path}/copy/adaptd.db")
    backup.restore(tmp_path / "b.tar.gz", tmp_path / "restored")
    kept = dict(daemon.rows("SELECT digest, data FROM blob"))
    for folder in ("copy", "restored"):
        with closing(sqlite3.connect(tmp_path / folder / "adaptd.db")) as made:
            assert dict(made.execute("SELECT digest, data FROM blob")) == kept and len(kept) == 10
    assert "holds" in daemon.cli("verify")
    daemon.edit("UPDATE blob SET data = ? WHERE digest = ?", b"\0", min(kept))
    assert daemon.cli("verify", "--json", expect=1).count("are not what was written") == 1


def test_an_encoder_that_reads_something_else_is_refused_at_the_start(config: str) -> None:
    with Daemon(config.replace('[domains.vision]\nencoder = "eyes"', '[domains.vision]\nencoder = "ears"')) as made:
        made.spawn()
        assert made.wait() == 78
        assert "it gives its encoder image, and [encoders.ears] reads audio" in made.said
