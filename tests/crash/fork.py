"""Daemons that start in a fraction of a second, for tests that start many: see `forked/crash_life.py`.

The forked modules have names of their own: a distribution brings another package `tests` into the environment, and the
process that forks does not have pytest's way to ours.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptd.client import Client
from tests.acceptance.daemon import Daemon

CONFIG = """
[plugins]
allow = ["adaptd-hashed"]
[encoders.default]
kind = "hashed"
[learn]
features = 256
checkpoint_labels = 60
[adapt]
every_labels = 0
min_labels = 20
[limits]
free_mb = 0
[http]
tcp = false
[feeds.tail]
kind = "jsonl"
domain = "text"
options = { path = "feed.jsonl", poll_s = 0.05, batch = 20 }
"""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["crash_life"])
MODULES = Path(__file__).with_name("forked")
sys.path.insert(0, str(MODULES))  # here, and in the process that forks
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(MODULES), os.environ.get("PYTHONPATH")]))
import crash_life  # noqa: E402


@functools.cache
def plugins() -> Path:
    """Return a folder with the encoder of `forked/adaptd_hashed.py`, installed as a distribution."""
    folder = Path(tempfile.mkdtemp(prefix="adaptd-plugins-"))
    shutil.copy(MODULES / "adaptd_hashed.py", folder)
    about = folder / "adaptd_hashed-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: adaptd-hashed\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[adaptd.learner]\nhashed = adaptd_hashed\n")
    return folder


class Process:
    """A forked daemon, as what `Daemon` wants of `subprocess.Popen`."""

    def __init__(self, *given: Any) -> None:
        self._process = CONTEXT.Process(target=crash_life.main, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("adaptd run", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forked(Daemon):
    """A daemon with an encoder that costs nothing, forked. `flaws` are put in its way, `points` make it kill itself."""

    def __init__(self, config: str = CONFIG, folder: Path | None = None, flaws: Sequence[str] = (), *,
                 said: Path | None = None, points: bool = False, url: str | None = None) -> None:
        super().__init__(config, folder, url)
        self._said = said or self._said
        self.flaws = flaws
        self._armed = CONTEXT.RawValue("i", 0) if points else None
        if points:  # it kills itself: who does not answer is not waited for
            self.client = Client(self.paths.socket, patience_s=1.0)

    def spawn(self, **environment: str) -> None:
        """Start the process; do not wait."""
        self.process = Process(str(self.folder), str(self._said), str(plugins()), environment,  # type: ignore[assignment]
                               list(self.flaws), self._armed)

    def arm(self, arming: int) -> None:
        """Let the process kill itself at the first new point from here on; each arming has a number (0: at none)."""
        assert self._armed is not None
        self._armed.value = arming

    @property
    def killed_at(self) -> list[str]:
        """The points at which it has killed itself, over all lives."""
        file = Path(f"{self._said}.points")
        return file.read_text().splitlines() if file.exists() else []
