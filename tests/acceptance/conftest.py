"""The daemons that acceptance tests talk to: one that all share, and as many as a test needs of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from adaptd.bench.brokers import Absent
from tests.acceptance import translation
from tests.acceptance.daemon import Daemon
from tests.conftest import missing

NUMBER = 112  # domains of the shared daemon: as many as all files have tests that take one
# Tests poison on purpose and want to see what it does; those of tests/acceptance/test_quarantine.py have it on.
CONFIG = """
[quarantine]
enabled = false
[adapt]
every_labels = 0
[http]
port = 0
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip what needs a broker that is not installed."""
    try:
        return (yield)
    except Absent as error:
        missing(str(error))


@pytest.fixture(scope="session")
def shared() -> Iterator[Daemon]:
    """Return a running daemon for tests that neither stop it nor look at what others learn: each its own domain."""
    domains = "".join(f'[domains.d{number}]\nkind = "text"\n' for number in range(NUMBER))
    with Daemon(CONFIG + domains, afresh=True) as daemon:
        yield daemon.start()


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return iter(range(NUMBER))


@pytest.fixture
def domain(_numbers: Iterator[int]) -> str:
    """Return a domain of the shared daemon that no other test uses."""
    return f"d{next(_numbers)}"


@pytest.fixture
def make() -> Iterator[Callable[..., Daemon]]:
    """Return a maker of stores; their daemons end with the test."""
    with ExitStack() as stack:
        yield lambda config=CONFIG: stack.enter_context(Daemon(config))


@pytest.fixture(scope="session")
def translation_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model that translates a small world of sentences."""
    return translation.trained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate for localhost, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        missing("openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
                   cwd=folder, check=True, capture_output=True)
    return folder
