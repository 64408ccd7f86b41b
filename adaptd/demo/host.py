"""The demonstration's daemon: a real one, in a process of its own, on a store that is gone afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from adaptd.client import Client
from adaptd.errors import CannotStart, NotReady, NotRunning
from adaptd.paths import CONFIG, locate

READY_S = 120.0
STOP_S = 40.0  # the daemon itself gives up after 30 s
PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def daemon() -> Iterator[Client]:
    """Make a store, run a daemon on it until the block ends, and leave nothing.

    Raises
    ------
    CannotStart
        The daemon did not get ready; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="adaptd-demo-") as folder:
        store, log = Path(folder, "store"), Path(folder, "log")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ADAPTD_")}
        made = subprocess.run([sys.executable, "-P", "-m", "adaptd", "init", str(store)], env=environment, text=True,
                              capture_output=True)
        if made.returncode:
            raise CannotStart(f"adaptd init: {made.stderr.strip()}",
                              hint="set TMPDIR to a writable folder with a short path")
        _configure(store / CONFIG)
        with open(log, "wb") as output:
            child = subprocess.Popen(  # a session of its own: ^C reaches the demonstration only, which then stops it
                [sys.executable, "-P", "-m", "adaptd", "run", "--config", str(store)], env=environment, cwd=folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=_die_with_parent)
        try:
            client = Client(locate(store).socket, patience_s=0.0)
            _wait(client, child, log)
            yield client
        finally:
            _stop(child)


def _configure(file: Path) -> None:
    """Change what `init` wrote in two respects.

    Adaptations come when the story asks for them, and the bad source is not set aside by itself: the way back is the story.
    """
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("[adapt]\n", "[quarantine]\nenabled = false\n\n[adapt]\nevery_labels = 0\n"), encoding="utf-8")


def _die_with_parent() -> None:
    """In the child: stop in order when the demonstration is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(client: Client, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            client.call("GET", "/readyz")
            return
        except (NotRunning, NotReady):
            pass
        if child.poll() is not None or time.monotonic() > deadline:
            words = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise CannotStart(f"the daemon did not get ready:\n{words}", hint="see what its log says above")
        time.sleep(0.1)  # bounded by the deadline


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
