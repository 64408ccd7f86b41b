"""Children: the processes of one domain's adaptations: one at a time on this machine, bounded, paused, and ended.

What is paused is ended, not stopped: it holds no memory, the other domains have their turn, and the trainer goes on from the
place that it kept. A process that was not training begins anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adaptd import config, training
from adaptd.errors import TrainingFailed
from adaptd.process import GivingWay

log = logging.getLogger(__name__)
KEEP_OUTPUT = 20  # lines of a child's stderr that a failure quotes
LOOK_S = 0.5  # between two looks at whether to end
ONE_AT_A_TIME = threading.Lock()  # adaptations of all domains share the machine


class Children:
    """Runs them, and says what they are doing."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._child: subprocess.Popen[str] | None = None
        self._may_run = threading.Event()
        self._may_run.set()
        self._has_turn = False
        self._was_paused = False  # what ran was ended for a pause
        self.ending: Exception | None = None  # raised where it runs; None: it may go on
        self.stage: dict[str, Any] | None = None  # for status
        self.suffers: Callable[[], bool] = lambda: False  # whether those who ask wait because of what runs here

    # -- from outside -----------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether nothing runs until `go_on`."""
        return not self._may_run.is_set()

    def pause(self) -> None:
        """End what runs, and run it again after `go_on`."""
        self._may_run.clear()
        self._was_paused = True
        self._kill()

    def go_on(self) -> None:
        """Run again what was paused."""
        self._may_run.set()

    def end(self, why: Exception) -> None:
        """End what runs, or waits to."""
        self.ending = why
        self._kill()

    def _kill(self) -> None:
        if (child := self._child) is not None:
            child.kill()

    # -- where it runs ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the machine, once the other domains' adaptations are over or paused."""
        self._take_turn()
        try:
            yield
        finally:
            self._give_turn()

    def _take_turn(self) -> None:
        while not ONE_AT_A_TIME.acquire(timeout=LOOK_S):
            self.check()
        self._has_turn = True

    def _give_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            ONE_AT_A_TIME.release()

    def check(self) -> None:
        """Raise what it is to end with, if it is to end."""
        if self.ending is not None:
            raise self.ending

    def at(self, stage: str, progress: float = 0.0, **more: Any) -> None:
        """Say what it is doing."""
        self.stage = {**(self.stage or {}), "stage": stage, "progress": progress, **more}

    def run(self, module: str, folder: Path, stage: str, settings: config.Adapt) -> None:
        """Run a child to its end, through pauses, following its progress. It is called in a turn.

        Raises
        ------
        TrainingFailed
            It failed, in its own words; or it took more time or memory than it may.
        """
        while True:
            self._wait_through_pause()
            self._was_paused = self.paused  # or it was paused again just now
            self.at(stage)
            code, said = self._once(module, folder, stage, settings)
            self.check()
            if code != 0 and self._was_paused:
                continue
            if code != 0:
                raise TrainingFailed(training.failure(stage, code, said))
            return

    def _wait_through_pause(self) -> None:
        self.check()
        if not self.paused:
            return
        self.at("paused", (self.stage or {}).get("progress", 0.0))
        self._give_turn()
        while not self._may_run.wait(LOOK_S):
            self.check()
        self._take_turn()

    def _once(self, module: str, folder: Path, stage: str, settings: config.Adapt) -> tuple[int, list[str]]:
        child = training.start(module, folder)
        self._child = child
        if self.ending is not None or self.paused:  # since it was looked at
            child.kill()
        said: deque[str] = deque(maxlen=KEEP_OUTPUT)
        listener = threading.Thread(target=lambda: said.extend(child.stderr or ()), daemon=True)
        listener.start()
        try:
            with GivingWay(child, stage, settings.time_limit_s, lambda: self.suffers(), settings.memory_limit_mb) as way:
                for line in child.stdout or ():
                    self._progress(line)
                code = child.wait()
            if way.stopped_s:
                log.info("%s gave way to predictions for %.1f s", stage, way.stopped_s,
                         extra={"action": "gave_way", "domain": self._domain})
            listener.join(timeout=5.0)
        finally:
            self._child = None
        return code, list(said)

    def _progress(self, line: str) -> None:
        try:
            told = json.loads(line)
            self.stage = {**(self.stage or {}), "progress": float(told["progress"]), "words": str(told.get("words", ""))}
        except (ValueError, KeyError, TypeError):
            log.debug("trainer: %s", line.rstrip())
