"""Begun: what an adaptation that runs has begun from, in its folder, so that the next start of a killed daemon goes on with it.

It goes on if what it learns and what it began from are what they were: the rows that had been born by its seq, the champion's
adapters, the branch, the recipe. Anything else makes another candidate, and the journal could not make that one again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from adaptd import plugins
from adaptd.errors import BadConfig

FILE = "begun.json"
MOST_STARTS = 3  # of the same training: what ends the daemon that often is not tried again


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An adaptation that runs."""

    domain: str
    reason: str
    actor: str
    branch: int
    seq: int  # rows born up to here are learned
    after: int  # and those born after this one are new
    origin: dict[str, str]  # by head: the digest of the adapter that it began from
    recipe: dict[str, Any]
    starts: int = 1

    def write(self, folder: Path) -> None:
        """Write it into its folder."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f"{FILE}.part"
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.rename(folder / FILE)

    def differs(self, branch: int, after: int, origin: Mapping[str, str], recipe: Mapping[str, Any]) -> str | None:
        """Say what is not as it was, None where all is."""
        now = {"the live state was rolled back": branch != self.branch, "its rows have been learned": after != self.after,
               "the champion is another": origin != self.origin,
               "the settings are others": json.loads(json.dumps(recipe)) != self.recipe}
        return next((words for words, wrong in now.items() if wrong), None)


def read(folder: Path) -> Begun | None:
    """Return what a folder says, None where there is nothing to go on with."""
    try:
        return plugins.build(Begun, json.loads((folder / FILE).read_text("utf-8")), FILE)
    except (OSError, ValueError, TypeError, BadConfig):
        return None


@lru_cache
def _life(process: int) -> str:
    """Return what tells this process from all others: its id may be that of the one before, as in a container."""
    return secrets.token_hex(4)


def name(domain: str) -> str:
    """Return the name of a new folder; whose it is, is in it."""
    return f"{domain}-{_life(os.getpid())}-{time.time_ns()}"


def take(jobs: Path, domain: str) -> tuple[Path, Begun] | None:
    """Take over the domain's adaptation that an earlier daemon had begun, if there is one."""
    for folder in sorted(jobs.glob("*")):
        if f"-{_life(os.getpid())}-" not in folder.name and (begun := read(folder)) is not None and begun.domain == domain:
            begun = replace(begun, starts=begun.starts + 1)
            begun.write(folder)
            return folder.rename(jobs / name(domain)), begun
    return None


def stopped(folder: Path) -> None:
    """Note that the daemon was stopped, and not ended by this training."""
    if (begun := read(folder)) is not None:
        replace(begun, starts=begun.starts - 1).write(folder)


def sweep(jobs: Path, domains: Collection[str]) -> list[str]:
    """Remove what earlier daemons left, but one adaptation of each domain that can go on; return the names of what went."""
    jobs.mkdir(parents=True, mode=0o700, exist_ok=True)
    kept, gone = set[str](), list[str]()
    for folder in sorted(jobs.glob("*"), reverse=True):
        begun = read(folder)
        if begun is not None and begun.starts < MOST_STARTS and begun.domain in domains and begun.domain not in kept:
            kept.add(begun.domain)
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.unlink(missing_ok=True) if folder.is_file() else None
        gone.append(folder.name)
    return sorted(gone)
