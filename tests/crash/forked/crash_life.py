"""One life of a real daemon, forked from a process that has imported it: a start then costs no imports.

`main` runs in the fork. It is `adaptd run` and nothing else, but for what a test puts in its way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `adaptd run` does, before torch is imported

import faiss  # noqa: F401
import river.drift  # noqa: F401
from crash_points import Points

import adaptd.daemon  # noqa: F401
from adaptd import sqlite
from adaptd.cli import main as command


def main(folder: str, said: str, plugins: str, environment: Mapping[str, str], flaws: Sequence[str], points: Any) -> None:
    """Become the daemon of a store."""
    os.setsid()
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    for name in [name for name in os.environ if name.startswith("ADAPTD_")]:
        del os.environ[name]
    os.environ.update(environment, PYTHONPATH=os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")]))
    sys.path.insert(0, plugins)
    for flaw in flaws:
        FLAWS[flaw]()
    if points is not None:
        Points(Path(said + ".points"), points)
    sys.argv = ["adaptd", "run", "--config", folder]
    command()


def _journal_not_synced() -> None:
    sqlite.PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=OFF") for p in sqlite.PRAGMAS)


def _journal_synced_now_and_then() -> None:
    sqlite.PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=NORMAL") for p in sqlite.PRAGMAS)


def _files_not_synced() -> None:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


# What a power cut must be able to show: negative controls.
FLAWS = {"synchronous=OFF": _journal_not_synced, "synchronous=NORMAL": _journal_synced_now_and_then,
         "no fsync of files": _files_not_synced}
