"""Daemons with an encoder that costs nothing, for tests that start many: see `tests/forked/crash_life.py`."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from adaptd.client import Client
from tests.acceptance.daemon import Daemon
from tests.forking import CONTEXT, MODULES, Process

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
        self.process = Process("crash_life", str(self.folder), str(self._said), str(plugins()), environment,
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
