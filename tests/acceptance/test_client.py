"""The public client on a real daemon: its page and its notebook run, and a second arrival counts once."""

from __future__ import annotations

import doctest
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adaptd.client import Client
from adaptd.errors import BadPayload, NoAnswer, NotFound, TooLarge, Unauthorized, UnknownDomain
from tests.acceptance.daemon import ADAPTING, Daemon, lesson, texts
from tests.conftest import missing

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Return a running daemon on `store` in the working folder, as the page and the notebook have it."""
    monkeypatch.chdir(tmp_path)
    with Daemon(ADAPTING, tmp_path / "store") as daemon:
        yield daemon.start()


@pytest.fixture
def client(shared: Daemon, domain: str) -> Iterator[Client]:
    with Client(shared.folder, domain=domain) as made:
        yield made


def test_the_page_does_what_it_says(store: Daemon) -> None:
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE
    done = doctest.testfile(str(DOCS / "client.md"), module_relative=False, optionflags=flags)
    assert done.attempted > 20 and not done.failed


def test_the_notebook_runs(store: Daemon) -> None:
    try:
        import nbclient
        import nbformat
    except ImportError:
        missing("nbclient (adaptd[dev])")
    notebook = nbformat.read(DOCS / "client.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3",
                            resources={"metadata": {"path": str(store.folder.parent)}}).execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "with the intern: refund" in said and "delivery" in said


def test_it_loads_nothing_heavy(shared: Daemon) -> None:
    heavy = ("torch", "numpy", "pydantic", "sqlalchemy", "faiss")
    code = (f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); from adaptd import Client; "
            f"print(Client({str(shared.folder)!r}).status().state)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.stderr) == ("running\n", "")


def test_many_events_from_a_generator_are_learned_in_order(client: Client) -> None:
    taught = itertools.cycle((text, label) for label in ("card", "music") for text in texts(label))
    events = ((f"{text} {number}", label) for number, (text, label) in enumerate(itertools.islice(taught, 1100)))
    done = client.learn(events)
    assert (done.accepted, len(done.events), len(set(done.events))) == (1100, 1100, 1100)
    answers = client.predict([f"{text} 0" for text in texts("card")] * 12)
    assert len(answers) == 600 and {one.label for one in answers} == {"card"}


def test_rejections_are_named_by_their_place_among_all(client: Client) -> None:
    events = [{"text": "" if place in (3, 777) else f"word {place}"} for place in range(900)]
    done = client.learn(events)
    assert (done.accepted, [one.index for one in done.rejected]) == (898, [3, 777])
    assert isinstance(done.rejected[0].error, BadPayload) and done.rejected[0].error.hint
    with pytest.raises(BadPayload) as caught:
        client.predict(["good"] * 612 + [""])
    assert caught.value.field == "inputs[612].text" and caught.value.message.startswith("inputs[612]")


def test_smaller_limits_halve_the_chunks(make: Make) -> None:
    daemon = make("[limits]\nitems = 7\nbytes = 4096\n[http]\nport = 0\n").start()
    client = Client(daemon.folder)
    assert client.learn(lesson(("card", "music"), 20)).accepted == 40
    assert len(client.predict(texts("card"))) == 50
    done = client.learn([("short", "a"), ("long " * 2000, "a"), ("short too", "a")])
    assert done.accepted == 2 and [(one.index, type(one.error)) for one in done.rejected] == [(1, TooLarge)]


def test_a_daemon_that_is_killed_in_the_middle_is_waited_for_and_nothing_counts_twice(make: Make) -> None:
    daemon = make().start()
    events = lesson(("card", "music", "food"), 40)
    with Client(daemon.folder, patience_s=120) as client:
        parts: list[int] = []
        started = threading.Event()

        def teach() -> None:
            for event in events:
                parts.append(client.learn(event).checked().accepted)
                started.set()

        teacher = threading.Thread(target=teach)
        teacher.start()
        assert started.wait(60)
        daemon.crash()
        daemon.start()
        teacher.join(120)
    assert len(parts) == len(events)
    assert daemon.rows("SELECT count(*) FROM event") == [(len(events),)]


def test_over_tcp_it_needs_the_token(shared: Daemon) -> None:
    address = next(one for one in shared.status()["listening"] if one.startswith("http://"))
    token = shared.paths.token.read_text().strip()
    with Client(address, token=token) as client:
        assert client.status().state == "running" and client.ready()
        assert client.status().pid
    for wrong in (None, "wrong"):
        with pytest.raises(Unauthorized):
            Client(address, token=wrong).status()


def test_what_is_not_there_is_said(client: Client, shared: Daemon) -> None:
    with pytest.raises(NotFound) as caught:
        client.feedback("1-00000000", "card")
    assert caught.value.field == "event"
    answer, = client.predict("anything")
    done = client.feedbacks([{"event": "1-00000000", "label": "card"}])
    assert [type(one.error) for one in done.rejected] == [NotFound]
    done = client.feedbacks([{"event": "1-00000000", "label": "card"}, {"event": answer.event, "label": "card"}])
    assert (done.accepted, [one.index for one in done.rejected]) == (1, [0])
    with pytest.raises(UnknownDomain):
        Client(shared.folder, domain="nowhere").predict("anything")


def test_a_daemon_that_hangs_is_not_waited_for_without_end(make: Make) -> None:
    daemon = make().start()
    with Client(daemon.folder, timeout_s=0.2) as client:
        assert client.status().state == "running"
        daemon.signal(signal.SIGSTOP)
        try:
            with pytest.raises(NoAnswer):
                client.status()
        finally:
            daemon.signal(signal.SIGCONT)
        assert Client(daemon.folder).status().pid == (daemon.process and daemon.process.pid)
