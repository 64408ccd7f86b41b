"""A real daemon in a process of its own, and texts to teach it. Every wait has an end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from adaptd import db
from adaptd.bench.waiting import WAIT_S
from adaptd.bench.waiting import until as until
from adaptd.client import Client
from adaptd.errors import NotRunning
from adaptd.newstore import create
from adaptd.paths import CONFIG, Paths
from adaptd.status import open_store
from tests.forking import Process
from tests.postgres import database

Json = dict[str, Any]
# A configuration whose adaptations start on demand alone, and are short.
ADAPTING = """
[adapt]
every_labels = 0
options = { steps = 16 }
[http]
port = 0
"""
# What says that it is about a file, or a folder that nothing mirrors: tests/integration/test_postgres.py has the counterparts.
SQLITE = pytest.mark.skipif(os.environ.get("TEST_STORE") == "postgresql", reason="it is about SQLite's file")
START_S, STOP_S = 240.0, 240.0  # a busy machine: limits, not expectations

SUBJECTS: Mapping[str, Sequence[str]] = {
    "card": ["my credit card", "the debit card", "a stolen visa card", "the card's PIN", "the new bank card"],
    "weather": ["the rain tomorrow", "snow in the mountains", "the weather forecast", "the storm warning", "sunshine"],
    "music": ["this song", "the guitar concert", "a jazz album", "the piano lesson", "my playlist"],
    "food": ["the pizza", "a tomato soup recipe", "fresh bread", "the apple pie", "dinner at the restaurant"],
    "travel": ["my flight to Rome", "the train ticket", "the hotel booking", "a lost suitcase", "the airport bus"],
    "sport": ["the football match", "my tennis racket", "the marathon", "the basketball team", "the swimming pool"],
    "health": ["my headache", "the doctor's appointment", "a flu vaccine", "the broken leg", "my blood pressure"],
    "garden": ["the roses", "the lawn mower", "tulip bulbs", "the apple tree", "weeds between the tomatoes"],
}
PATTERNS = ("I have a question about {}", "what is wrong with {}", "tell me more about {}", "can you help me with {}",
            "{}, please, it is urgent", "what happened to {}", "we talked about {} on monday", "is there any news of {}",
            "I dreamt of {}", "my sister asked me about {}")


def texts(label: str, count: int = 50) -> list[str]:
    """Return different texts about a topic."""
    return [pattern.format(subject) for pattern in PATTERNS for subject in SUBJECTS[label]][:count]


def lesson(labels: Sequence[str], each: int, *, prefix: str = "", **fields: Any) -> list[Json]:
    """Return labelled events about topics, the topics in turn; `prefix` gives them ids."""
    found = [{"text": texts(label)[place], "label": label, **fields} for place in range(each) for label in labels]
    return [{**one, "id": f"{prefix}{place}"} for place, one in enumerate(found)] if prefix else found


class Daemon:
    """One store and its daemon: started, asked, killed, started again. As a context it is always cleaned up.

    It is forked from a process that has imported adaptd, or started `afresh`, which takes seconds more; by another
    `python` always. With TEST_STORE=postgresql in the environment each store is in a database of its own; with `url` in
    that one. A `copy_of` another store, whose daemon is stopped, has a copy of its database too.
    """

    def __init__(self, config: str = "", folder: Path | None = None, url: str | None = None, *, afresh: bool = False,
                 python: str | Path | None = None, copy_of: Daemon | None = None) -> None:
        self.afresh, self.python = afresh or python is not None, python or sys.executable
        self._stack = ExitStack()
        if url is None and os.environ.get("TEST_STORE") == "postgresql" and folder is None:
            url = self._stack.enter_context(database(None if copy_of is None else copy_of.paths.url))
        self.folder = folder or Path(tempfile.mkdtemp(prefix="adaptd-"))  # short: a unix socket's path is bounded
        self.paths = Paths(config=self.folder / CONFIG, state=self.folder, given_url=url)
        if copy_of is not None:
            shutil.copytree(copy_of.folder, self.folder, dirs_exist_ok=True)
            if url is not None:
                self.paths.config.write_text(self.paths.config.read_text().replace(str(copy_of.paths.url), url))
        elif not self.paths.config.exists():
            create(self.folder)
            self.configure(config or self.paths.config.read_text())
        self.client = Client(self.paths.socket)
        self.process: subprocess.Popen[bytes] | Process | None = None
        self._said = self.folder.with_name(self.folder.name + ".stderr")

    def configure(self, config: str) -> None:
        """Give it another configuration, and the store that it has."""
        url = self.paths.given_url
        store = "" if url is None else f'\n[store]\nurl = "{url}"\n'
        self.paths.config.write_text(config if store in config else config + store)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._said.unlink(missing_ok=True)
        self._stack.close()

    @property
    def said(self) -> str:
        """What the daemon wrote to standard error, over all its lives."""
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    # -- life --------------------------------------------------------------------------------------------------

    def spawn(self, **environment: str) -> None:
        """Start the process, in a group of its own; do not wait."""
        if not self.afresh and "LD_PRELOAD" not in environment:
            self.process = Process("adaptd_life", str(self.folder), str(self._said), environment)
            return
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ADAPTD_")}
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [self.python, "-m", "adaptd", "run", "--config", str(self.folder)], stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, start_new_session=True, env={**clean, **environment})

    def start(self, **environment: str) -> Daemon:
        """Start, and wait until it is ready."""
        self.spawn(**environment)
        until(self._ready, f"ready\n{self.said}", START_S)
        return self

    def _ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, f"it ended:\n{self.said}"
        try:
            return self.client.exchange("GET", "/readyz", timeout_s=START_S)[0] == 200
        except NotRunning:
            return False

    def wait(self, limit_s: float = STOP_S) -> int:
        """Wait for the process to end by itself; return its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {limit_s:g} s:\n{self.said}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop it with SIGTERM; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill it and its children with SIGKILL, if it runs."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_S)
        self.process = None

    def crash(self) -> None:
        """Kill the daemon alone with SIGKILL; its children must end by themselves."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(STOP_S)
        _, alive = psutil.wait_procs(children, timeout=STOP_S)
        assert not alive, f"outlived the daemon: {alive}"

    def restart(self) -> Daemon:
        """Stop it cleanly and start it again."""
        assert self.stop() == 0, self.said
        return self.start()

    # -- what it is asked --------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Json]:
        """Return status and document over the unix socket."""
        status, document, _ = self.client.exchange(method, path, body, 120.0)
        return status, document

    def post(self, path: str, body: Any = None, expect: int = 200) -> Json:
        """Post to a domain's route and return the document of the expected status."""
        status, document = self.ask("POST", f"/v1/{path}", body)
        assert status == expect, f"{path} answered {status}: {document}\n{self.said[-2000:]}"
        return document

    def teach(self, events: Sequence[Json], domain: str = "text") -> Json:
        """Post events; all must be taken."""
        done = self.post(f"{domain}/events", list(events), 202)
        assert not done["rejected"], done["rejected"]
        return done

    def predict(self, *asked: str, domain: str = "text", **options: Any) -> Json:
        """Ask for answers."""
        return self.post(f"{domain}/predict", {"inputs": [{"text": text} for text in asked], **options})

    def scores(self, asked: Sequence[str], domain: str = "text") -> list[tuple[str, Json]]:
        """Return label and scores of each text, asked alone, once the ridge is solved: equal bits for equal states."""
        self.settled(domain)
        answers = [self.predict(text, domain=domain)["predictions"][0] for text in asked]
        return [(answer["label"], answer["scores"]) for answer in answers]

    def settled(self, domain: str = "text") -> None:
        """Wait until the ridge holds every row."""
        until(lambda: (d := self.domain(domain))["learn_lag"] == 0 and d["unsolved"] == 0, "the ridge is solved")

    def status(self) -> Json:
        """Return the status document."""
        return self.client.call("GET", "/v1/status")

    def domain(self, name: str = "text") -> Json:
        """Return a domain's part of the status document."""
        found: Json = self.status()["domains"][name]
        return found

    def problems(self) -> dict[str, str]:
        """Return the messages of what is wrong, by code."""
        return {problem["code"]: problem["message"] for problem in self.status()["problems"]}

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the store's tables, whether the daemon runs or not."""
        with closing(open_store(self.paths.store)) as opened:
            return [tuple(row) for row in opened.execute(query, values).fetchall()]

    def edit(self, statement: str, *values: Any) -> None:
        """Change a stopped store behind adaptd's back."""
        engine = db.writing_engine(self.paths.store)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement if self.paths.url is None else statement.replace("?", "%s"), values or None)
        engine.dispose()

    def over_tcp(self, method: str, path: str, token: str | None = None, body: Any = None) -> tuple[int, Json]:
        """Return status and document over TCP."""
        address = next(one for one in self.status()["listening"] if one.startswith("http://"))
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=WAIT_S)
        headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        with closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def cli(self, *words: str, expect: int = 0) -> str:
        """Run a command of the command line on this store; return its standard output."""
        done = subprocess.run([sys.executable, "-m", "adaptd", *words, "--config", str(self.folder)],
                              capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == expect, f"{words} ended with {done.returncode}: {done.stderr}"
        return done.stdout


def flip(file: Path, at: int = -5) -> None:
    """Flip one byte of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(bytes(data))


def newest(folder: Path) -> Iterator[Path]:
    """Yield the numbered folders, newest first."""
    yield from sorted(folder.glob("[0-9]*"), key=lambda path: -int(path.name))
