"""The daemon from its start to its end: what it says, who may come in, how it stops, why it refuses to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.daemon import START_S, Daemon, Json, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
STATUS = {"state", "pid", "uptime_s", "domains", "seq", "listening", "feeds", "problems"}
DOMAIN = {"version", "parent", "promoted_at", "labels", "events", "labelled", "memory", "accuracy", "forgetting", "drift",
          "adapting", "last_verdict", "learn_lag", "calibration", "abstention"}


def test_the_status_document_has_every_field_of_the_contract(shared: Daemon, domain: str) -> None:
    status = shared.status()
    assert STATUS <= set(status) and status["state"] == "running" and status["pid"] == shared.process.pid
    found = status["domains"][domain]
    assert DOMAIN <= set(found) and {"prequential", "holdout"} <= set(found["accuracy"])
    assert "text" in status["domains"]  # always there


def test_a_domain_without_labels_abstains_and_says_why(shared: Daemon, domain: str) -> None:
    answer = shared.predict("where is my card?", domain=domain)["predictions"][0]
    assert answer["label"] is None and "no label" in answer["reason"]


def test_the_picked_port_is_named_in_the_status(shared: Daemon) -> None:
    unix, tcp = shared.status()["listening"]
    assert unix == f"unix:{shared.paths.socket}"
    assert tcp.startswith("http://127.0.0.1:") and int(tcp.rsplit(":", 1)[1]) > 0


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/status"), ("POST", "/v1/text/predict"), ("GET", "/metrics"),
                                              ("GET", "/openapi.json"), ("POST", "/v1/text/rollback")])
def test_over_tcp_nothing_is_told_without_the_token(shared: Daemon, method: str, path: str) -> None:
    for token in (None, "", "wrong", shared.paths.token.read_text().strip()[:-1]):
        status, answer = shared.over_tcp(method, path, token)
        assert (status, answer["error"]["code"]) == (401, "unauthorized")


def test_over_tcp_the_token_opens_and_health_needs_none(shared: Daemon) -> None:
    token = shared.paths.token.read_text().strip()
    assert shared.over_tcp("GET", "/v1/status", token)[0] == 200
    assert shared.over_tcp("POST", "/v1/text/predict", token, {"inputs": [{"text": "hello"}]})[0] == 200
    assert [shared.over_tcp("GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
    assert shared.paths.token.stat().st_mode & 0o777 == 0o600


def test_the_socket_lets_only_owner_and_group_in(shared: Daemon) -> None:
    assert shared.paths.socket.stat().st_mode & 0o777 == 0o660
    if shared.paths.url is None:
        assert shared.paths.database.stat().st_mode & 0o777 == 0o600


def test_a_second_daemon_on_the_store_is_refused_by_name(shared: Daemon) -> None:
    second = Daemon(folder=shared.folder)
    second.spawn()
    assert second.wait() == 3
    assert f"locked by pid {shared.process.pid}" in second.said and "hint:" in second.said
    assert shared.status()["state"] == "running"  # the first one has lost nothing


def test_a_port_in_use_is_refused_with_field_and_cure(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = make(f"[http]\nport = {port}\n")
        daemon.spawn()
        assert daemon.wait() == 3
    assert f"127.0.0.1:{port}" in daemon.said and "port = 0" in daemon.said
    assert "Traceback" not in daemon.said


@pytest.mark.parametrize(("config", "words"), [
    ("[http]\nprot = 1\n", ["adaptd.toml:2", "http.prot", "did you mean 'port'"]),
    ("[limits]\nitems = -1\n", ["adaptd.toml:2", "limits.items"]),
    ('[http]\nhost = "0.0.0.0"\n', ["http.host", "loopback"]),
    ('[feeds.a]\nkind = "jsonl"\ndomain = "nowhere"\n', ["feeds.a.domain", "nowhere"]),
    ("[http\n", ["adaptd.toml"]),
    ('[encoders.default]\nkind = "no such"\n', ["encoders.default.kind", "transformers"]),
    ('[plugins]\nallow = ["no-such-distribution"]\n', ["no-such-distribution"]),
    ('[adapt]\nstrategy = "reply"\n', ["adapt.strategy", "replay"]),
    ('[feeds.a]\nkind = "jsonl"\ndomain = "text"\noptions = { pth = "x" }\n', ["feeds.a.options", "path"]),
])
def test_a_bad_configuration_is_refused_with_78_place_and_cure(make: Make, config: str, words: list[str]) -> None:
    daemon = make(config)
    daemon.spawn()
    assert daemon.wait(START_S) == 78, daemon.said
    assert all(word in daemon.said for word in words), daemon.said
    assert "Traceback" not in daemon.said


def test_a_token_that_others_can_read_is_refused(make: Make) -> None:
    daemon = make()
    daemon.paths.token.chmod(0o644)
    daemon.spawn()
    assert daemon.wait() == 78
    assert "chmod 600" in daemon.said


def test_a_state_folder_that_anybody_can_write_is_refused(make: Make) -> None:
    daemon = make()
    daemon.folder.chmod(0o777)
    daemon.spawn()
    assert daemon.wait() == 3
    assert "chmod 700" in daemon.said


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to a read-only folder")
def test_a_state_folder_that_cannot_be_written_is_refused(make: Make) -> None:
    daemon = make()
    daemon.folder.chmod(0o500)
    daemon.spawn()
    assert daemon.wait() == 3
    daemon.folder.chmod(0o700)
    assert str(daemon.folder) in daemon.said and "Traceback" not in daemon.said


def test_a_store_lives_from_fresh_to_drained(make: Make, tmp_path: Path) -> None:
    daemon = make()
    daemon.paths.socket.touch()  # in the way, and not a socket
    daemon.spawn()
    assert daemon.wait(START_S) == 3 and "not a socket" in daemon.said
    daemon.paths.socket.unlink()
    stale = socket.socket(socket.AF_UNIX)  # what a killed daemon leaves
    stale.bind(str(daemon.paths.socket))
    stale.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(START_S)
        systemd.bind(str(daemon.folder / "notify"))
        daemon.start(NOTIFY_SOCKET=str(daemon.folder / "notify"))
        assert b"READY=1" in systemd.recv(4096)
        _fresh(daemon)
        _drains(daemon)
        told = systemd.recv(4096)
        assert b"STOPPING=1" in told or b"WATCHDOG=1" in told
    assert not daemon.paths.socket.exists()
    assert json.loads(daemon.cli("status", "--json", expect=3))["state"] == "stopped"


def _fresh(daemon: Daemon) -> None:
    found = daemon.domain()
    assert (found["version"], found["parent"], found["labels"], found["memory"]) == (1, None, 0, 0)
    assert daemon.status()["problems"] == []


def _drains(daemon: Daemon) -> None:
    """A request in flight is answered although SIGTERM came, what is journalled stays, the exit code is 0."""
    answers: list[Json] = []
    asked = [text for label in ("card", "music", "food", "sport") for text in texts(label)] * 2
    asking = threading.Thread(target=lambda: answers.append(daemon.predict(*asked)))
    asking.start()
    until(lambda: b"in flight" if _waiting(daemon) else b"", "the request is in flight", every_s=0.01)
    assert daemon.stop() == 0, daemon.said
    asking.join(60)
    assert len(answers[0]["predictions"]) == len(asked)
    assert daemon.rows("SELECT count(*) FROM event") == [(len(asked),)]


def _waiting(daemon: Daemon) -> bool:
    connection = daemon.rows("SELECT count(*) FROM event")
    return connection != [(0,)]


def test_a_second_sigterm_forces_and_what_was_acknowledged_is_kept(make: Make) -> None:
    daemon = make().start()
    daemon.teach([{"text": "where is my card?", "label": "card", "id": "1"}])
    held = socket.socket(socket.AF_UNIX)  # a request that never ends keeps it draining
    held.connect(str(daemon.paths.socket))
    held.sendall(b"POST /v1/text/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n[")
    until(lambda: daemon.status()["state"] == "running", "it answers")
    daemon.signal(signal.SIGTERM)
    until(lambda: "stopping" in daemon.said, "it drains")
    assert daemon.process.poll() is None
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(10) == 1
    held.close()
    assert "forced" in daemon.said
    assert daemon.rows("SELECT key FROM event") == [("1",)]
