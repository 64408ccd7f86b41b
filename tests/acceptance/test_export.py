"""A version leaves as a model: transformers, ONNX and MLflow answer as the daemon did, in processes without adaptd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from adaptd import config
from adaptd.errors import AdaptdError
from adaptd.export.sync import sync
from adaptd.export.version import export
from tests.acceptance.daemon import Daemon, lesson, texts

pytestmark = pytest.mark.acceptance
ASKED = [text for label in ("card", "weather", "music", "food") for text in texts(label, 50)[41:45]]
PAGE = Path(__file__).parents[2] / "docs" / "export.md"
HF, ONNX, MLFLOW = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)  # what users are told to write
BEFORE = "import json, sys; folder, asked = sys.argv[1], json.loads(sys.argv[2]); sys.modules['adaptd'] = None\n"
AFTER = "\nimport json; print(json.dumps(found))"
Answers = Sequence[tuple[str, float]]


@pytest.fixture(scope="module")
def taught() -> Iterator[tuple[Daemon, dict[int, Answers]]]:
    """Return a daemon with two versions, and what each answered; one class of the second one is young."""
    with Daemon("[http]\nport = 0\n") as daemon:
        daemon.start()
        known = {}
        for labels, each in ((["card", "weather", "music"], 40), (["food"], 5)):
            daemon.teach(lesson(labels, each))
            version = daemon.post("text/snapshot", {"reason": f"with {labels[-1]}"})["version"]
            known[version] = said(daemon)
        yield daemon, known


def noted(number: int, to: str) -> None:
    """An export that nobody need know of."""


def said(daemon: Daemon) -> Answers:
    found = daemon.post("text/predict", {"inputs": [{"text": text} for text in ASKED]})["predictions"]
    return [(one["label"], one["confidence"]) for one in found]


def outside(program: str, where: str, cwd: Path) -> Answers:
    """Return what a process without adaptd answers."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-P", "-c", BEFORE + program + AFTER, where, json.dumps(ASKED)], cwd=cwd, env=clean,
                          check=True, stdout=subprocess.PIPE, text=True, timeout=240)
    return [(label, p) for label, p in json.loads(done.stdout.splitlines()[-1])]


def assert_same(found: Answers, wanted: Answers) -> None:
    assert [label for label, _ in found] == [label for label, _ in wanted]
    assert max(abs(p - q) for (_, p), (_, q) in zip(found, wanted, strict=True)) < 1e-3


@pytest.mark.parametrize(("form", "program"), [("hf", HF), ("onnx", ONNX)])
def test_an_exported_version_answers_as_it_did(taught: tuple[Daemon, Mapping[int, Answers]], tmp_path: Path, form: str,
                                               program: str) -> None:
    daemon, known = taught
    version = max(known)
    told = export(*config.load(str(daemon.folder)), "text", version, form, tmp_path / "model", None, note=noted)
    assert (told["version"], told["labels"]) == (version, 4)
    assert_same(outside(program, told["folder"], tmp_path), known[version])
    assert "food" in {label for label, _ in known[version]}, "the young class is answered"


def test_mlflows_champion_follows_what_is_live(taught: tuple[Daemon, Mapping[int, Answers]], tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, known = taught
    monkeypatch.chdir(tmp_path)  # where MLflow keeps what it is given
    uri, (first, second) = f"sqlite:///{tmp_path}/mlflow.db", known

    def synced() -> dict[str, Any]:
        return sync(*config.load(str(daemon.folder)), "text", uri, "adaptd-text", every=False, head=None, note=noted, tell=print)

    assert (synced()["entered"], synced()["entered"]) == ([second], [])
    daemon.post("text/rollback", {"to": first})
    document = json.loads(daemon.cli("mlflow", "--uri", uri, "--json"))
    assert (document["entered"], document["live"]) == ([first], first)
    assert_same(outside(MLFLOW, uri, tmp_path), known[first])
    exported = [one for one in daemon.ask("GET", "/v1/history?domain=text")[1]["actions"] if one["what"] == "export"]
    assert [(one["after"], one["detail"]["to"]) for one in exported] == [(first, f"{uri} adaptd-text")]

    event = daemon.rows("SELECT id FROM event ORDER BY seq LIMIT 1")[0][0]
    certificate = daemon.post("text/forget", {"event": event, "reason": "their request"})
    assert certificate["exports"] == [f"{uri} adaptd-text"]
    document = synced()
    assert (document["entered"], sorted(document["removed"])) == ([first], [first, second]), "what held it is not left there"
    assert (synced()["entered"], synced()["removed"]) == ([], [])
    assert outside(MLFLOW, uri, tmp_path)


def test_what_cannot_be_exported_is_named(taught: tuple[Daemon, Mapping[int, Answers]], tmp_path: Path) -> None:
    daemon, known = taught
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    last = max(known)
    for version, folder, head, message in ((last, "full", None, "not empty"), (1, "new", None, "learned nothing"),
                                           (999, "new", None, "no version 999"), (last, "new", "topic", "has the heads label")):
        with pytest.raises(AdaptdError, match=message):
            export(*config.load(str(daemon.folder)), "text", version, "hf", tmp_path / folder, head, note=noted)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))
