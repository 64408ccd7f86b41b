"""Named points: before and after each fsync, rename, removal, commit and swap. A process kills itself at a new one.

Nothing in the product knows of them: they are put around what the product calls, in the forked process. A commit is
SQLAlchemy's, so another database has the same points.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from adaptd.predict import Inference


class Points:
    """Kills at the first point, from each arming on, at which nobody was killed before: `covered` has those, a line each.

    A point that is reached again is another point (`#2`). `armed` is shared with the test: 0 is off, each other number
    a new arming.
    """

    def __init__(self, covered: Path, armed: Any) -> None:
        self._file, self._shared = covered, armed
        self._armed = 0
        self._lock = threading.RLock()
        fsync, rename, rmtree, commit, swap = os.fsync, os.rename, shutil.rmtree, DefaultDialect.do_commit, Inference.swap
        os.fsync = self._around("fsync", fsync, lambda fd: os.readlink(f"/proc/self/fd/{fd}"))  # type: ignore[assignment]
        os.rename = self._around("rename", rename, lambda _, to: str(to))  # type: ignore[assignment]
        shutil.rmtree = self._around("remove", rmtree, lambda path, **_: str(path))  # type: ignore[assignment]
        DefaultDialect.do_commit = self._around("commit", commit, lambda *_: "")  # type: ignore[method-assign]

        def swapped(inference: Inference, domain: str, make: Callable[[], Any]) -> Any:
            return swap(inference, domain, self._around("swap", make, lambda: ""))

        Inference.swap = swapped  # type: ignore[method-assign]

    def _around(self, what: str, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*given: Any, **options: Any) -> Any:
            about = f"{what} {plain(name(*given, **options))}".strip()
            self._reach(f"before {about}")
            result = call(*given, **options)
            self._reach(f"after {about}")
            return result

        return wrapped

    def _reach(self, name: str) -> None:
        with self._lock:
            if self._armed != self._shared.value:
                self._armed, self._seen = self._shared.value, Counter[str]()
                self._covered = set(self._file.read_text().splitlines()) if self._file.exists() else set()
            if not self._armed:
                return
            self._seen[name] += 1
            if (point := f"{name} #{self._seen[name]}") not in self._covered:
                with self._file.open("a") as file:
                    file.write(point + "\n")
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()


def plain(path: str) -> str:
    """Return a path below the store with its numbers taken out: points of one name are of one kind."""
    return re.sub(r"\d+", "N", re.sub(r"^.*/(?=versions|checkpoints|jobs)", "", path))
