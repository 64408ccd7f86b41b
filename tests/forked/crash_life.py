"""One life of a real daemon, forked, with what a test puts in its way (see `adaptd_life`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import adaptd_life
from crash_points import Points

from adaptd import sqlite


def main(folder: str, said: str, plugins: str, environment: Mapping[str, str], flaws: Sequence[str], points: Any) -> None:
    """Become the daemon of a store."""
    sys.path.insert(0, plugins)
    for flaw in flaws:
        FLAWS[flaw]()
    if points is not None:
        Points(Path(said + ".points"), points)
    way = os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")])
    adaptd_life.main(folder, said, {**environment, "PYTHONPATH": way})


def _journal_not_synced() -> None:
    sqlite.PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=OFF") for p in sqlite.PRAGMAS)


def _journal_synced_now_and_then() -> None:
    sqlite.PRAGMAS = tuple(p.replace("synchronous=FULL", "synchronous=NORMAL") for p in sqlite.PRAGMAS)


def _files_not_synced() -> None:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


# What a power cut must be able to show: negative controls.
FLAWS = {"synchronous=OFF": _journal_not_synced, "synchronous=NORMAL": _journal_synced_now_and_then,
         "no fsync of files": _files_not_synced}
