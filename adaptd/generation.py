"""Generation: a domain's texts are written in a process of its own, so that neither its time nor its end is felt elsewhere.

Where: behind predict, for a domain with a `Generate` head. One process a domain, started with the daemon and again when it ended;
what waits is bounded, and refused beyond that. The process is given all it needs with each text and keeps nothing: a label counts
from its acknowledgement on, and behind a rollback, a forget or a restart there is nothing left to undo. Nor does it keep what an
adaptation has trained: each request says which version's weights it is to be written with, and others are handed over first.

Lines of JSON go in and come out: `adaptd.generator` is the other side.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptd import process
from adaptd.errors import Busy, NotWritten
from adaptd.futures import fail, settle
from adaptd.records import Brief, Report, Written

if TYPE_CHECKING:
    from adaptd.model.weights import Weights

log = logging.getLogger(__name__)
TOGETHER = 16  # texts that are written at once
WAITING = 64  # texts that may wait, where any do
LOAD_S, WRITE_S = 300.0, 60.0  # how long loading, and writing so many, may take
RETRY_S = 10.0  # after it could not start, it is not tried again for so long
END_S = 5.0
KEPT_OUTPUT = 20  # lines of its stderr that a failure quotes


@dataclass
class _Request:
    briefs: Sequence[Brief]
    weights: Weights | None = None
    written: list[Written] = field(default_factory=list)
    done: Future[list[Written]] = field(default_factory=Future)


class Generation:
    """What writes the texts of one domain."""

    def __init__(self, domain: str, job: Mapping[str, Any], folder: Path, report: Report) -> None:
        self._domain = domain
        self._job = {**job, "domain": domain}
        self._folder = folder
        self._report = report
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._requests: deque[_Request] = deque()
        self._lock = threading.Lock()
        self.waiting = 0  # texts that were asked for and are not answered
        self._child: subprocess.Popen[str] | None = None
        self._adopted: str | None = None  # the digest of the weights that it writes with,
        self._live: Weights | None = None  # those that it is to hold while nothing is asked for
        self._said: deque[str] = deque(maxlen=KEPT_OUTPUT)
        self._failed: tuple[float, NotWritten] | None = None  # when it could not start, and why
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"generation-{domain}", daemon=True)

    def start(self) -> None:
        """Start it; what is asked for waits until it is loaded."""
        self._queue.put(_Request(()))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._queue.put(None)
        if (child := self._child) is not None:
            child.kill()
        self._thread.join(END_S)

    @contextlib.contextmanager
    def room(self, texts: int) -> Iterator[None]:
        """Hold room for texts, before anything is journalled; raise Busy where they could not wait."""
        with self._lock:
            if self.waiting and self.waiting + texts > WAITING:
                raise Busy(f"{self.waiting} texts wait to be written in {self._domain!r}", retry_after_s=1.0)
            self.waiting += texts
        try:
            yield
        finally:
            with self._lock:
                self.waiting -= texts

    def write(self, briefs: Sequence[Brief], weights: Weights | None = None) -> Future[list[Written]]:
        """Queue texts to be written with weights, or by the model as it is; it fails with NotWritten where they cannot be."""
        request = _Request(briefs, weights)
        self._queue.put(request)
        return request.done

    def adopt(self, weights: Weights | None) -> None:
        """Have the process hold these weights and no others, before it is asked for a text with them."""
        self._live = weights
        self._queue.put(_Request((), weights))

    # -- in its thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._take():
            while self._requests:
                self._turn(self._requests.popleft())
            self._let_go()
        self._end()

    def _take(self) -> bool:
        """Wait for requests; False when it is to end."""
        request = self._queue.get()
        if request is not None:
            self._requests.append(request)
        return request is not None and not self._closing

    def _turn(self, request: _Request) -> None:
        """Write some texts of a request; the others wait behind the next request's, so that a large one holds up no small one."""
        some = request.briefs[len(request.written) : len(request.written) + TOGETHER]
        try:
            request.written += self._ask(some, request.weights)
        except NotWritten as error:
            fail(request.done, error)
            return
        except Exception as error:  # whatever it is, others are answered; by another process, since this one's answers are none
            log.exception("what came back is no text", extra={"action": "not_written", "domain": self._domain})
            self._stop()
            fail(request.done, self._failure({"message": f"what writes them gave something else: {error!a:.300}",
                                              "hint": "it is started again with the next text"}))
            return
        with contextlib.suppress(queue.Empty):
            while (other := self._queue.get_nowait()) is not None:
                self._requests.append(other)
            self._queue.put(None)  # it ends behind what was asked for
        if len(request.written) == len(request.briefs):
            settle(request.done, request.written)
        else:
            self._requests.append(request)

    def _let_go(self) -> None:
        """Take out the weights of another version than the live one: who had asked for them before has been answered."""
        if (child := self._child) is not None and child.poll() is None:
            with contextlib.suppress(NotWritten):  # told; it is started again with the next text
                self._hand_over(child, self._live)

    def _ask(self, briefs: Sequence[Brief], weights: Weights | None) -> list[Written]:
        child = self._started()
        self._hand_over(child, weights)
        if not briefs:
            return []
        answer = self._exchange(child, {"briefs": [asdict(brief) for brief in briefs]}, WRITE_S)
        found = [_written(one) for one in answer["written"]]
        if len(found) != len(briefs):
            raise ValueError(f"{len(found)} texts for {len(briefs)}")
        return found

    def _hand_over(self, child: subprocess.Popen[str], weights: Weights | None) -> None:
        """Give the process other weights than it writes with; what it refuses is told once, and its model writes as it is."""
        if (digest := None if weights is None else weights.digest) == self._adopted:
            return
        file = None if weights is None else base64.b64encode(weights.file).decode()
        refused = self._exchange(child, {"weights": file}, LOAD_S)["refused"]
        self._adopted = digest
        if refused is not None:
            self._report("weights_not_used", f"{self._domain}: texts are written by the model as it is, without what it was "
                         f"trained to: {refused['message']}", refused["hint"])

    def _started(self) -> subprocess.Popen[str]:
        """Return the process, loaded; start it where there is none."""
        if self._child is not None and self._child.poll() is None:
            return self._child
        if self._failed is not None and time.monotonic() - self._failed[0] < RETRY_S:
            raise self._failed[1]
        self._said.clear()
        self._adopted = None
        child = self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "adaptd.generator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=self._folder, env=process.environment())
        threading.Thread(target=lambda: self._said.extend(child.stderr or ()), daemon=True).start()
        try:
            self._exchange(child, {**self._job, "parent_pid": os.getpid()}, LOAD_S)
        except NotWritten as error:
            self._failed, self._child = (time.monotonic(), error), None
            child.kill()
            child.wait()
            raise
        self._failed = None
        log.info("texts are written", extra={"action": "generator_ready", "domain": self._domain})
        return child

    def _exchange(self, child: subprocess.Popen[str], told: Mapping[str, Any], limit_s: float) -> Any:
        """Send a line and return the one that comes back."""
        assert child.stdin is not None and child.stdout is not None
        late = threading.Timer(limit_s, child.kill)
        late.start()
        try:
            child.stdin.write(json.dumps(told) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        answer = json.loads(line) if line.endswith("\n") else {"error": self._ended(child)}
        if "error" in answer:
            raise self._failure(answer["error"])
        return answer

    def _ended(self, child: subprocess.Popen[str]) -> dict[str, str]:
        """Say how it ended."""
        child.kill()
        code = child.wait()
        last = next((line.strip() for line in reversed(self._said) if line.strip()), "it said nothing")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return {"message": f"what writes them {how}: {last[:300]}", "hint": "it is started again with the next text"}

    def _failure(self, error: Mapping[str, str]) -> NotWritten:
        message = f"{self._domain}: texts are not written: {error['message']}"
        if not self._closing:
            self._report("not_written", message, error.get("hint", ""))
        return NotWritten(message, retry_after_s=RETRY_S, hint=error.get("hint", ""))

    def _end(self) -> None:
        for request in self._requests:
            fail(request.done, NotWritten("the daemon is stopping"))
        self._stop()

    def _stop(self) -> None:
        if (child := self._child) is not None:
            child.kill()
            child.wait()


def _written(told: Mapping[str, Any]) -> Written:
    return Written(text=told["text"], confidence=float(told["confidence"]), reason=told["reason"])
