"""The README's commands and its plugin do what it says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adaptd import plugins
from adaptd.testing import check_domain
from tests.acceptance.daemon import Daemon

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
pytestmark = pytest.mark.acceptance


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_plugin_of_the_readme_passes_the_contract() -> None:
    namespace: dict[str, object] = {}
    exec(blocks("python")[0], namespace)
    check_domain(namespace["Tickets"], payloads=[{"body": "refund?"}], feedback=["billing"], rejected=[{}])


def test_the_five_commands_of_the_readme_run(tmp_path: Path) -> None:
    line = re.search(r'`(\{"text": "Where is my parcel\?".*?\})`', README)
    assert line
    second = json.dumps({"text": "I want my money back", "label": "refund", "id": "2"})
    (tmp_path / "tickets.jsonl").write_text(f"{line[1]}\n{second}\n")
    commands = [shlex.split(c.split("#")[0].removeprefix("$ ").strip()) for c in blocks("console")[0].splitlines()]
    assert [c[1] for c in commands] == ["init", "run", "ingest", "predict", "rollback"]

    def call(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "adaptd", *command[1:]], cwd=tmp_path, capture_output=True, text=True,
                              timeout=240)

    made = call(commands[0])
    assert made.returncode == 0, made.stderr
    with Daemon(folder=tmp_path / "store").start():
        for command in commands[2:]:
            done = call(command)
            assert done.returncode == 0, (command, done.stderr)


def test_every_module_that_the_readme_names_is_there() -> None:
    package = Path(plugins.__file__).parent
    for name in re.findall(r"`((?:\w+/)?\w+\.py|\w+/)`", README.split("## How it works")[1]):
        assert (package / name).exists(), name
