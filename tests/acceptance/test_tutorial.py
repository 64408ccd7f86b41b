"""docs/tutorial.md does what it says, from an empty folder to a daemon that has learned."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import Daemon

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
MINUTES = 10  # what the page promises
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.S)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a fresh environment of its own: it sees this one's libraries and this adaptd, and pip needs no network."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    programs = tmp_path / "env" / "bin"
    found = subprocess.run([programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    (Path(found) / "libraries.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    pip = f"{shlex.quote(sys.executable)} -m pip --python {shlex.quote(str(programs / 'python'))}"
    for name, command in (("pip", pip), ("adaptd", f"{shlex.quote(str(programs / 'python'))} -m adaptd")):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    return tmp_path


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block and the output that the page shows."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        lines = part.splitlines()
        more = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
        yield "\n".join([lines[0], *(line.removeprefix("> ") for line in lines[1:more])]), "\n".join(lines[more:])


def shows(shown: str, said: str) -> bool:
    """Say whether an output is the one that is shown; `…` stands for anything, spaces and line ends count as one."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in shown.split("…"))
    return re.fullmatch(pattern.replace(r"\ ", r"\s*"), " ".join(said.split())) is not None


def test_an_output_that_differs_is_found() -> None:
    assert shows("a\n… b", "a 1 b") and not shows("a …", "b 1")


def test_the_tutorial_ends_in_a_daemon_that_has_learned(home: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTD_", "PYTHONPATH"))}
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    there = {**clean, **offline, "PATH": f"{home / 'env' / 'bin'}:{clean['PATH']}", "COLUMNS": "200"}
    began, daemons = time.monotonic(), list[Daemon]()
    try:
        for language, block in BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text()):
            if language == "python":
                (home / block.splitlines()[0].removeprefix("# ")).write_text(block)
                continue
            for command, shown in commands(block):
                if command.endswith(" &"):
                    daemons.append(Daemon(folder=home / "store", python=home / "env" / "bin" / "python").start())
                    continue
                done = subprocess.run(["bash", "-c", command], cwd=home, env=there, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                assert not shown or shows(shown, done.stdout), f"{command}\n{done.stdout}\nis not\n{shown}"
        assert daemons and time.monotonic() - began < 60 * MINUTES
    finally:
        for daemon in daemons:
            daemon.__exit__()
