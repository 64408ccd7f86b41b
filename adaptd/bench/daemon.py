"""A real daemon process on a temporary store, driven over its unix socket with connections that are kept open.

The configuration is the one that `adaptd init` writes. What a protocol changes (adaptation off) is set by
environment variables and stands in the result.
"""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from adaptd.bench.sets import Setting
from adaptd.bench.streams import Bools
from adaptd.client import Client
from adaptd.errors import AdaptdError, CannotStart
from adaptd.newstore import create
from adaptd.paths import CONFIG
from adaptd.status import open_store

Json = dict[str, Any]
INPUTS = 64  # predictions asked for in one request
START_S, STOP_S, CALL_S, ADAPT_S = 180.0, 90.0, 600.0, 3600.0
TEXTS = Setting()


def payload(one: Any) -> Json:
    """Return what a set's row is sent as: a text, or a payload."""
    return {"text": one} if isinstance(one, str) else one


def answered(client: Client, texts: Sequence[Any], domain: str = "text") -> Json:
    """Ask for answers, all in one request, of texts or payloads without ids."""
    return client.call("POST", f"/v1/{domain}/predict", {"inputs": [payload(text) for text in texts]})


class Daemon:
    """`adaptd init` and `adaptd run` in a temporary folder, from `with` to its end."""

    def __init__(self, *, adapt: bool, url: str | None = None, config: str = "", setting: Setting = TEXTS) -> None:
        self.adapt = adapt
        self._config = config + (f'\n[store]\nurl = "{url}"\n' if url is not None else "")
        self._setting = setting
        self._at = f"/v1/{setting.domain}"
        off = f"ADAPTD_DOMAINS__{setting.domain.upper()}__ADAPT__ENABLED"
        self.settings: Mapping[str, str] = {**setting.variables, **({} if adapt else {off: "false"})}
        self._ids = itertools.count()
        self.cpu_s = 0.0  # of the daemon and its trainers; known when it has ended
        self.peak_mb = 0.0

    def __enter__(self) -> Self:
        self._scratch = Path(tempfile.mkdtemp(prefix="adaptd-bench-"))
        self.store = self._scratch / "store"
        create(self.store)
        if self._setting.config:
            (self.store / CONFIG).write_text(self._setting.config, encoding="utf-8")
        with (self.store / CONFIG).open("a", encoding="utf-8") as file:
            file.write(self._config)
        self._before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.main.close()
        self._end()

    def start(self) -> None:
        """Start it; return when it is ready."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ADAPTD_")}
        with open(self._scratch / "log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "adaptd", "run", "--config", str(self.store)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**clean, **self.settings})
        self.pid = self._process.pid
        self.main = self.connect()
        limit = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > limit:
                raise CannotStart(f"the daemon did not come up: {self._last_words()}")
            time.sleep(0.1)  # bounded by START_S

    def _ready(self) -> bool:
        try:
            return bool(self.main.call("GET", "/readyz").get("ready"))
        except AdaptdError:  # not there yet: the caller waits, and knows when to give up
            return False

    def _last_words(self) -> str:
        lines = (self._scratch / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _end(self) -> None:
        if hasattr(self, "_process"):
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_s = now.ru_utime + now.ru_stime - self._before.ru_utime - self._before.ru_stime
        self.peak_mb = now.ru_maxrss / 1024
        shutil.rmtree(self._scratch, ignore_errors=True)

    def killed_and_started(self) -> None:
        """Kill it with SIGKILL and start it again; return when it is ready."""
        self.crash()
        self.start()

    def crash(self) -> None:
        """Kill it with SIGKILL."""
        self.main.close()
        self._process.kill()
        self._process.wait()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the store's file, whether the daemon runs or not."""
        with closing(open_store(self.store / "adaptd.db")) as opened:
            return [tuple(row) for row in opened.execute(query, values)]

    def connect(self) -> Client:
        """Return a client for one thread, whose connection is kept until it is closed."""
        return Client(self.store / "adaptd.sock", timeout_s=CALL_S, patience_s=CALL_S).__enter__()

    # -- the protocol's verbs ----------------------------------------------------------------------------------

    def learn(self, texts: Sequence[Any], labels: Sequence[Any], sources: Sequence[str] = ()) -> list[str]:
        """Send labelled events; return when they are learned, or held as one's `sources` are, with their ids."""
        items: list[Json] = [{"id": f"bench-{next(self._ids)}", **payload(text), "label": label}
                             for text, label in zip(texts, labels, strict=True)]
        if sources:
            items = [{**item, "source": source} for item, source in zip(items, sources, strict=True)]
        answer = self.main.call("POST", f"{self._at}/events", items)
        assert not answer["rejected"] and (sources or not answer["held"]), answer
        return list(answer["events"])

    def predict(self, texts: Sequence[Any]) -> list[tuple[str, Any]]:
        """Return (event, label) of each text."""
        return [(answer["event"], answer["label"]) for answer in self.asked(texts)]

    def asked(self, texts: Sequence[Any]) -> list[Json]:
        """Return all that is said of each text."""
        return [answer for start in range(0, len(texts), INPUTS)
                for answer in answered(self.main, texts[start:start + INPUTS], self._setting.domain)["predictions"]]

    def right(self, texts: Sequence[Any], labels: Sequence[str]) -> Bools:
        """Ask, and say which answers are right."""
        return np.array([a == true for (_, a), true in zip(self.predict(texts), labels, strict=True)], dtype=bool)

    def feedback(self, events: Sequence[str], labels: Sequence[Any]) -> None:
        """Give labels to answered events; return when they are learned."""
        answer = self.main.call("POST", f"{self._at}/feedback",
                                [{"event": event, "label": label} for event, label in zip(events, labels, strict=True)])
        assert not answer["rejected"] and not answer["held"], answer

    def snapshot(self, reason: str) -> int:
        """Name the live state, with the ridge solved; return its number."""
        return int(self.main.call("POST", f"{self._at}/snapshot", {"reason": reason})["version"])

    def rollback(self, to: int) -> int:
        """Go to a version; return the number under which what was live is saved."""
        return int(self.main.call("POST", f"{self._at}/rollback", {"to": to, "reason": "bench"})["saved"])

    def resume(self) -> None:
        """Learn again after a rollback."""
        self.main.call("POST", f"{self._at}/resume", {"what": "learning"})

    def state(self) -> Json:
        """Return the domain's part of the status."""
        domain: Json = self.main.call("GET", "/v1/status")["domains"][self._setting.domain]
        return domain

    def pause_for_adaptation(self) -> None:
        """Wait while an adaptation runs: a real stream takes days, and would not be over before the first one is.

        Raises
        ------
        AdaptdError
            One runs for longer than an hour.
        """
        limit = time.monotonic() + ADAPT_S
        while self.adapt and self.state()["adapting"] is not None:
            if time.monotonic() > limit:
                raise AdaptdError("an adaptation does not end", hint="look at the daemon's status")
            time.sleep(0.2)  # bounded by ADAPT_S

    def consolidate(self) -> None:
        """Have upper blocks of the encoder tuned and judged."""
        self.main.call("POST", f"{self._at}/adapt", {"wait": True, "consolidate": True}, timeout_s=ADAPT_S)

    def settle(self) -> None:
        """Wait until the ridge, which may trail by a second, holds all that was learned and no adaptation runs."""
        time.sleep(0.2)  # the trigger follows the acknowledgement
        self.pause_for_adaptation()
        self.snapshot("the ridge solved")  # it goes through the learner's barrier

    def verdicts(self) -> list[Json]:
        """Return what the gate said of each candidate, oldest first."""
        versions = self.main.call("GET", f"{self._at}/versions")["versions"]
        return [{"version": v["version"], "decision": (v["verdict"] or {}).get("decision"),
                 "reasons": (v["verdict"] or {}).get("reasons")} for v in versions if v["kind"] == "candidate"]
