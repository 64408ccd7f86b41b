"""What the daemon asks of its host, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ARENAS = """
import ctypes, sys, threading
from adaptd.host import give_memory_back
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit(77)
give_memory_back()
wait = threading.Barrier(9)
def take():
    block = bytearray(100_000)
    wait.wait()
    wait.wait()
    del block
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
wait.wait()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
wait.wait()
"""


def arenas(**variables: str) -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", ARENAS], env={**clean, **variables}, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return done.stdout.count("<heap nr=")


def test_threads_share_few_arenas_unless_somebody_says_otherwise() -> None:
    assert arenas() <= 2
    assert arenas(MALLOC_ARENA_MAX="6") > 2
