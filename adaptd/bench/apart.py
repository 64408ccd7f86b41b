"""The peers by name, each in a process of its own: what it imports, and what it does to threads and seeds, stays there."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from adaptd.bench.peers import Cron, Frozen, Inputs, NaiveBayes, NearestMean, Neighbours, Peer, StreamingLda, Tree
from adaptd.bench.rivals import AdaptiveClassifier, ErAce
from adaptd.bench.streams import Ints
from adaptd.errors import AdaptdError
from adaptd.wire import rebuilt

CHUNK = 1024  # rows that are answered in one message
STOP_S = 30.0
REFIT_EVERY = 500  # events between two runs of what learns at night; a twentieth of a stream that is short
HALF_LIFE = 2000  # events after which a remembered neighbour counts half


class PeerFailed(AdaptdError):
    """A peer's process came to an end."""

    code = "peer_failed"


class Apart:
    """A peer by its name, behind a pipe, from `with` to its end; `events`: how long a moving stream is, None: it is still."""

    def __init__(self, name: str, events: int | None = None) -> None:
        self.name = name
        self.cpu_s = 0.0  # of learning and answering
        spawn = multiprocessing.get_context("spawn")  # a fork would bring this process's threads along
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, name, events), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        self._ask("made")  # a peer that is not installed is told at once
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join(STOP_S)
        self._process.kill()

    def learn(self, inputs: Inputs, classes: Ints) -> None:
        """Learn rows, in order."""
        self._ask("learn", inputs, classes)

    def predict(self, inputs: Inputs) -> Ints:
        """Answer rows."""
        starts = range(0, len(inputs.texts), CHUNK)
        parts = [self._ask("predict", inputs.take(np.arange(start, min(start + CHUNK, len(inputs.texts))))) for start in starts]
        return np.concatenate([np.zeros(0, dtype=np.int64), *parts])

    def refit(self) -> None:
        """Do what is done at night."""
        self._ask("refit")

    def _ask(self, what: str, *given: Any) -> Any:
        try:
            self._pipe.send((what, given))
            self.cpu_s, answer, refused = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(STOP_S)
            raise PeerFailed(f"{self.name} ended with {self._process.exitcode}", hint="leave it out with --against") from None
        if refused is not None:
            raise rebuilt(422, {"error": refused})
        return answer


def makers(events: int | None) -> Mapping[str, Callable[[], Peer]]:
    """Return what makes each peer, for a stream of so many events; None: data stands still and experiences end.

    There cron's last refit is the joint linear probe.
    """
    night = None if events is None else max(20, min(REFIT_EVERY, events // 20))
    still = events is None
    return {
        "cron": lambda: Cron(every=night, strength=100.0 if still else 10.0),
        "frozen": lambda: Frozen(every=night, strength=100.0 if still else 10.0),
        "nearest-mean": NearestMean,
        "nearest-neighbours": lambda: Neighbours(10 if still else 50, half_life=None if still else HALF_LIFE),
        "streaming-lda": StreamingLda,
        "naive-bayes": NaiveBayes,
        "hoeffding-tree": lambda: Tree("tree", "HoeffdingAdaptiveTreeClassifier"),
        "forest": lambda: Tree("forest", "ARFClassifier"),
        "er-ace": lambda: ErAce(night),
        "adaptive-classifier": lambda: AdaptiveClassifier(night),
    }


def _serve(pipe: Connection, name: str, events: int | None) -> None:
    """Answer until the other end closes; in the peer's process."""
    peer: Peer | None = None
    spent = 0.0
    with suppress(EOFError, BrokenPipeError):
        while True:
            what, given = pipe.recv()
            answer, refused, began = None, None, time.process_time()
            try:
                if peer is None:
                    peer = makers(events)[name]()
                    began = time.process_time()  # imports are not counted
                answer = None if what == "made" else getattr(peer, what)(*given)
            except AdaptdError as error:
                refused = error.body()
            spent += time.process_time() - began
            pipe.send((spent, answer, refused))
    os._exit(0)  # threads that a peer has left behind are not waited for
