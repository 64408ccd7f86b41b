"""Who may do what, on a real daemon over TLS: roles, domains, sources, guessing, secrets, slow and many clients."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from adaptd import Client
from adaptd.errors import AdaptdError, Busy, Forbidden, Unauthorized
from adaptd.grants import PREFIX, ROLES
from tests.acceptance.daemon import Daemon, Json, until

pytestmark = pytest.mark.acceptance
DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
ROUTE = re.compile(r"^\| `(GET|POST) (\S+)` \| ([a-z, ]+) \|$", re.M)
OPENED = {(method, path): roles.split(", ") for method, path, roles in ROUTE.findall(DOCS)}
CONNECTIONS = 12
CONFIG = f"""
[http]
certfile = "cert.pem"
keyfile = "key.pem"
[limits]
connections = {CONNECTIONS}
header_s = 1.0
body_s = 1.0
[log]
level = "warning"
format = "json"
[domains.text]
[domains.mail]
kind = "text"
[quarantine]
enabled = false
[adapt]
every_labels = 0
"""


def certify(folder: Path) -> None:
    """Make a certificate and its key, as docs/security.md says."""
    words = re.search(r"\$ (openssl req .*?)\n\$", DOCS, re.S)
    assert words
    command = words[1].replace("\\\n", " ").replace("fullchain.pem", "cert.pem").split()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o600)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon(CONFIG) as made:
        certify(made.folder)
        yield made.start()


@pytest.fixture(scope="module")
def tokens(daemon: Daemon) -> dict[str, str]:
    """Return a token of each role, made on the command line."""
    return {role: daemon.cli("token", "create", f"only-{role}", "--role", role).strip() for role in ROLES}


def url(daemon: Daemon) -> str:
    return str(daemon.status()["listening"][1])


def client(daemon: Daemon, token: str | None, **more: str) -> Client:
    return Client(url(daemon), token=token, cafile=daemon.folder / "cert.pem", patience_s=0.0, **more)


def made(daemon: Daemon, name: str, *words: str) -> str:
    return daemon.cli("token", "create", name, *words).strip()


def secure(daemon: Daemon) -> ssl.SSLSocket:
    """Return a connection that has shaken hands."""
    port = urlsplit(url(daemon)).port
    assert port
    context = ssl.create_default_context(cafile=daemon.folder / "cert.pem")
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="localhost")


def asked(connection: http.client.HTTPSConnection, method: str, path: str, token: str) -> tuple[int, str]:
    """Return status and the error's code; the stream, which does not end, is not read."""
    connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    if answer.status == 200:
        connection.close()
        return 200, ""
    return answer.status, str(json.loads(answer.read())["error"]["code"])


# -- roles and domains --------------------------------------------------------------------------------------------


def test_every_route_opens_to_the_roles_of_the_page_and_to_no_other(daemon: Daemon, tokens: dict[str, str]) -> None:
    """Every path of the daemon's own description, with every role; what is let through finds no such domain, feed or token."""
    port = urlsplit(url(daemon)).port
    context = ssl.create_default_context(cafile=daemon.folder / "cert.pem")
    routes = [(method.upper(), path) for path, methods in daemon.client.call("GET", "/openapi.json")["paths"].items()
              for method in methods]
    assert set(routes) == set(OPENED)
    with closing(http.client.HTTPSConnection("localhost", port, timeout=30, context=context)) as connection:
        for method, path in routes:
            real = re.sub(r"{(number|other)}", "1", re.sub(r"{(domain|name|event)}", "nowhere", path))
            allowed = OPENED[method, path]
            for role, token in tokens.items():
                status, code = asked(connection, method, real, token)
                open_to = role == "admin" or role in allowed or allowed in (["anybody"], ["every token"])
                where = f"{method} {path} as {role}: {status} {code}"
                if path == "/v1/backup" and role == "admin":
                    assert (status, code) == (400, "bad_request"), where  # over the socket alone: another test's
                else:
                    assert (code == "forbidden") != open_to, where
                    assert status != 401, where
            assert allowed == ["anybody"] or asked(connection, method, real, PREFIX + "x")[0] == 401


def test_a_forbidden_call_says_what_it_needs_and_changes_nothing(daemon: Daemon, tokens: dict[str, str]) -> None:
    before = daemon.domain()["version"], daemon.status()["seq"]
    with pytest.raises(Forbidden, match="needs the role operate; token:only-predict has predict") as refused:
        client(daemon, tokens["predict"]).rollback()
    assert "--role operate" in refused.value.hint
    assert (daemon.domain()["version"], daemon.status()["seq"]) == before


def test_a_token_for_a_domain_is_for_no_other_and_not_for_the_store(daemon: Daemon) -> None:
    token = made(daemon, "mailer", "--role", "operate", "--role", "predict", "--domain", "mail")
    assert client(daemon, token, domain="mail").predict("hello")
    assert client(daemon, token, domain="mail").history() and client(daemon, token, domain="mail").versions()
    for call in (client(daemon, token).versions, client(daemon, token).history, client(daemon, token, domain="none").versions,
                 lambda: client(daemon, token).predict("hello"), client(daemon, token).status,
                 lambda: client(daemon, token).call("GET", "/v1/history"), lambda: client(daemon, token).call("GET", "/metrics")):
        with pytest.raises(Forbidden, match="mail"):
            call()


def test_a_network_client_names_no_file_even_as_an_admin(daemon: Daemon, tokens: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="files of this host"):
        client(daemon, tokens["admin"]).call("POST", "/v1/backup", {"file": str(tmp_path / "b")})
    assert not list(tmp_path.iterdir())


# -- sources ------------------------------------------------------------------------------------------------------


def test_a_bound_token_cannot_speak_for_another_source(daemon: Daemon) -> None:
    """One that tries is refused whole, and nothing of it is journalled; what names no source is from its own."""
    token = made(daemon, "bound", "--role", "predict", "--role", "ingest", "--role", "label", "--source", "crm")
    bound = client(daemon, token, domain="mail")
    before = daemon.rows("SELECT count(*) FROM event"), daemon.rows("SELECT count(*) FROM label")
    for path, body in (
        ("events", [{"text": "mine"}, {"text": "theirs", "source": "erp"}]),
        ("events", [{"text": "a", "label": "x", "source": "Crm"}]),
        ("predict", {"inputs": [{"text": "theirs", "source": "erp"}]}),
        ("feedback", [{"source": "erp", "id": "1", "label": "x", "teacher": "erp"}]),
    ):
        with pytest.raises(Forbidden, match="'crm' and for no other"):
            bound.call("POST", f"/v1/mail/{path}", body)
    lines = b'{"text": "mine"}\n{"text": "theirs", "source": "erp"}\n'
    assert bound.exchange("POST", "/v1/mail/events", lines)[0] in (400, 403)
    assert (daemon.rows("SELECT count(*) FROM event"), daemon.rows("SELECT count(*) FROM label")) == before
    [answer] = bound.predict("whose is it")
    bound.learn([{"text": "mine", "label": "ours", "id": "1"}, {"text": "mine too", "source": "crm", "id": "2"}])
    bound.feedback(answer, "ours")
    mine = "SELECT source FROM event WHERE payload LIKE '%mine%' OR payload LIKE '%whose%'"
    assert set(daemon.rows(mine)) == set(daemon.rows("SELECT source FROM label")) == {("crm",)}


def test_labels_and_evidence_need_their_roles(daemon: Daemon, tokens: dict[str, str]) -> None:
    sender = client(daemon, tokens["ingest"])
    assert sender.learn([{"text": "no label"}]).accepted == 1
    with pytest.raises(Forbidden, match="role label"):
        sender.learn([("with one", "x")])
    with pytest.raises(Forbidden, match="evidence"):
        client(daemon, tokens["predict"]).predict("why", explain=True)


# -- tokens -------------------------------------------------------------------------------------------------------


def test_a_revoked_token_opens_nothing_from_then_on(daemon: Daemon) -> None:
    token = made(daemon, "leaked", "--role", "predict")
    with client(daemon, token) as kept:
        assert kept.predict("hello")
        daemon.cli("token", "revoke", "leaked", "--reason", "the laptop is lost")
        with pytest.raises(Unauthorized):
            kept.predict("hello")
    assert daemon.cli("token", "revoke", "leaked") == "leaked: revoked\n"
    daemon.cli("token", "create", "leaked", "--role", "predict", expect=1)
    [change] = [one for one in daemon.ask("GET", "/v1/history")[1]["actions"] if one["what"] == "token-revoke"]
    assert (change["reason"], change["actor"], change["detail"]) == ("the laptop is lost", "socket", {"token": "leaked"})


def test_a_token_ends_by_itself(daemon: Daemon) -> None:
    made = daemon.client.call("POST", "/v1/tokens", {"name": "brief", "roles": ["predict"], "expires": time.time() + 2.0})
    assert made["state"] == "valid"
    short = client(daemon, made["token"])

    def ended() -> bool:
        try:
            return not short.predict("hello")
        except Unauthorized:
            return True

    until(ended, "the token has expired", 10.0)
    assert listed(daemon)["brief"]["state"] == "expired"


def listed(daemon: Daemon) -> dict[str, Json]:
    return {one["name"]: one for one in json.loads(daemon.cli("token", "list", "--json"))["tokens"]}


@pytest.mark.parametrize(("body", "status", "field"), [
    ({"name": "x", "roles": ["root"]}, 400, "roles"), ({"name": "x", "roles": []}, 422, "roles"),
    ({"name": "../x", "roles": ["predict"]}, 422, "name"),
    ({"name": "x", "roles": ["predict"], "domains": ["none"]}, 404, "domains"),
    ({"name": "x", "roles": ["operate"], "source": "crm"}, 400, "source"),
    ({"name": "x", "roles": ["predict"], "expires": 1.0}, 400, "expires"),
    ({"name": "x", "roles": ["predict"], "source": "a\nb"}, 422, "source")])
def test_a_token_that_makes_no_sense_is_refused_with_field_and_cure(daemon: Daemon, body: Json, status: int, field: str) -> None:
    found, answer = daemon.ask("POST", "/v1/tokens", body)
    assert (found, answer["error"]["field"]) == (status, field) and answer["error"]["hint"]
    assert "x" not in listed(daemon)


# -- who gets nothing ---------------------------------------------------------------------------------------------


def test_a_port_scan_finds_loopback_alone(daemon: Daemon) -> None:
    """Whatever the daemon's process and its children listen on."""
    process = psutil.Process(daemon.process.pid)  # type: ignore[union-attr]
    found = {one.laddr for part in (process, *process.children(recursive=True)) for one in part.net_connections("inet")
             if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM}
    assert found == {("127.0.0.1", urlsplit(url(daemon)).port)}


def test_a_guesser_gets_nothing_but_401_and_a_line_in_the_problems(daemon: Daemon, tokens: dict[str, str]) -> None:
    """Guesses at random, and all that look like tokens; on every kind of path. Clients with a token notice nothing."""
    known = tokens["predict"]
    guesses = ["", "admin", "token", PREFIX, known[:-1], known + "a", known.upper(), known[::-1], "null", "' OR 1=1 --",
               *(PREFIX + secrets.token_urlsafe(32) for _ in range(150))]
    before = len(daemon.said)
    port = urlsplit(url(daemon)).port
    context = ssl.create_default_context(cafile=daemon.folder / "cert.pem")
    with closing(http.client.HTTPSConnection("localhost", port, timeout=30, context=context)) as connection:
        answers = set()
        for number, guess in enumerate(guesses):
            path = ("/v1/status", "/v1/tokens", "/metrics", "/openapi.json", "/v1/nowhere/versions", "/../token")[number % 6]
            connection.request("GET", path, headers={"Authorization": f"Bearer {guess}"})
            answer = connection.getresponse()
            answers.add((answer.status, answer.read()))
    assert {status for status, _ in answers} == {401} and len(answers) == 1
    assert client(daemon, known).predict("hello")
    assert "127.0.0.1" in daemon.problems()["refused"]
    assert len(daemon.said) - before < 10_000


@pytest.mark.parametrize("path", ["/v1/..%2f..%2ftoken", "/v1/text/../../token", "/v1/text/versions/..%2f..%2fadaptd.db",
                                  "/v1/text/explain/..%2f..%2ftoken", "/v1/%2e%2e/versions", "/v1/feeds/..%2ftoken/dead"])
def test_a_path_leads_out_of_no_folder(daemon: Daemon, tokens: dict[str, str], path: str) -> None:
    status, document, _ = client(daemon, tokens["admin"]).exchange("GET", path)
    own = daemon.paths.token.read_text().strip()
    assert status in (200, 404, 422) and own not in json.dumps(document)
    assert status != 200 or document["dead"] == []  # the list of a feed that is not there


def test_no_secret_is_in_sight(daemon: Daemon, tokens: dict[str, str]) -> None:
    """Neither in what the daemon says, nor in what it keeps, nor in the list of processes."""
    with suppress(AdaptdError):
        client(daemon, tokens["predict"]).call("GET", f"/v1/status?token={tokens['predict']}")
    sights = [daemon.said, json.dumps(daemon.status()), json.dumps(daemon.ask("GET", "/v1/history?limit=1000")[1]),
              daemon.cli("token", "list", "--json"), daemon.cli("config", "show"), daemon.cli("doctor", "--json"),
              json.dumps(client(daemon, tokens["admin"]).call("GET", "/v1/tokens"))]
    sights += [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]) if one.pid != os.getpid()]
    sights += [file.read_bytes().decode("latin-1") for file in daemon.folder.rglob("*")
               if file.is_file() and file.name not in ("token", "key.pem")]
    hidden = {*tokens.values(), daemon.paths.token.read_text().strip(), (daemon.folder / "key.pem").read_text().splitlines()[1]}
    for secret in hidden:
        assert not any(secret in sight for sight in sights)


def test_each_use_is_in_the_audit_log(daemon: Daemon, tokens: dict[str, str]) -> None:
    """Whatever the level; with who, what, which domain, and what became of it."""
    with suppress(AdaptdError):
        client(daemon, tokens["operate"], domain="mail").predict("hello")
    client(daemon, tokens["operate"], domain="mail").versions()
    lines = [json.loads(line) for line in daemon.said.splitlines() if line.startswith("{")]
    found = [(one["actor"], one.get("domain"), one["status"], one["address"]) for one in lines
             if one["logger"] == "adaptd.audit" and one.get("actor") == "token:only-operate"]
    assert found[-2:] == [("token:only-operate", "mail", 403, "127.0.0.1"), ("token:only-operate", "mail", 200, "127.0.0.1")]


# -- TLS and connections ------------------------------------------------------------------------------------------


def test_tls_is_spoken_as_configured(daemon: Daemon, tokens: dict[str, str]) -> None:
    """No old version, no clear text, no certificate that nobody vouches for."""
    with secure(daemon) as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
    with pytest.raises(AdaptdError, match="certificate verify failed") as refused:
        Client(url(daemon), token=tokens["predict"], patience_s=0.0).status()
    assert "cafile" in refused.value.hint
    with pytest.raises(AdaptdError):
        Client(url(daemon).replace("https", "http"), token=tokens["predict"], patience_s=0.0).status()
    port = urlsplit(url(daemon)).port
    old = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
    assert old.returncode != 0 and "Cipher is (NONE)" in old.stdout


def test_a_renewed_certificate_is_read_on_reload(daemon: Daemon) -> None:
    """Only when both files are renewed, and also beside a configuration that is wrong."""
    before = ssl.get_server_certificate(("127.0.0.1", urlsplit(url(daemon)).port or 0))
    key, config = daemon.folder / "key.pem", daemon.paths.config.read_text()
    old = key.read_bytes()
    certify(daemon.folder)
    renewed = key.read_bytes()
    key.write_bytes(old)  # half of it
    daemon.signal(signal.SIGHUP)
    until(lambda: "http.certfile" in daemon.problems().get("bad_config", ""), "it is told")
    assert ssl.get_server_certificate(("127.0.0.1", urlsplit(url(daemon)).port or 0)) == before
    key.write_bytes(renewed)
    daemon.configure(config + "wrong = 1\n")
    daemon.signal(signal.SIGHUP)
    until(lambda: ssl.get_server_certificate(("127.0.0.1", urlsplit(url(daemon)).port or 0)) != before, "the new certificate")
    assert (daemon.folder / "cert.pem").read_text().strip() in ssl.get_server_certificate(
        ("127.0.0.1", urlsplit(url(daemon)).port or 0)) + "\n"
    daemon.configure(config)


@pytest.mark.parametrize(("sent", "status"), [
    (b"GET /healthz HTTP/1.1\r\nhost: a\r\n", 408),
    (b"POST /v1/text/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer TOKEN\r\ncontent-length: 1000\r\n\r\n[", 408),
    (b"POST /v1/text/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer wrong\r\ncontent-length: 1000\r\n\r\n[", 401)])
def test_who_drips_is_closed(daemon: Daemon, tokens: dict[str, str], sent: bytes, status: int) -> None:
    """A head, a body, a body that nobody waits for."""
    with secure(daemon) as connection:
        connection.sendall(sent.replace(b"TOKEN", tokens["ingest"].encode()))
        connection.settimeout(0.1)
        said, end = b"", time.monotonic() + 20
        while time.monotonic() < end:
            try:
                connection.sendall(b"x")
                if not (more := connection.recv(4096)):
                    break
                said += more
            except TimeoutError:
                continue
            except OSError:
                break
        assert time.monotonic() < end and int(said.split()[1]) == status


def test_a_handshake_that_does_not_come_holds_a_place_and_the_operator_none(daemon: Daemon, tokens: dict[str, str]) -> None:
    """Too many connections that say nothing: TCP is full, the unix socket answers, and then there is room again."""
    port = urlsplit(url(daemon)).port
    assert port
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        until(lambda: full(daemon, tokens["predict"]), "it is full")
        assert daemon.status()["state"] == "running" and daemon.predict("hello")
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
        assert daemon.status()["state"] == "running"
    until(lambda: not full(daemon, tokens["predict"]), "there is room again")


def full(daemon: Daemon, token: str) -> bool:
    try:
        client(daemon, token).status()
    except Busy as error:
        assert error.code == "too_many_connections"
        return True
    except AdaptdError as error:  # closed without a word
        assert "certificate" not in error.message
        return True
    return False


# -- a stopped store, and another configuration -------------------------------------------------------------------


def test_tokens_outlive_the_daemon_and_are_managed_without_it(daemon: Daemon, tokens: dict[str, str]) -> None:
    """What was used is known then; a rate holds for each token; over clear text where no certificate is configured."""
    client(daemon, tokens["predict"]).predict("hello")
    assert daemon.stop() == 0
    assert listed(daemon)["only-predict"]["used"] == pytest.approx(time.time(), abs=120)
    new = made(daemon, "offline", "--role", "predict", "--expires", "12h")
    daemon.cli("token", "revoke", "only-predict")
    config = daemon.paths.config
    config.write_text(config.read_text().replace('certfile = "cert.pem"\nkeyfile = "key.pem"', "")
                      .replace("[limits]", "[limits]\nrate = 2.0"))
    daemon.start()
    assert daemon.over_tcp("GET", "/v1/status", tokens["predict"])[0] == 401
    status, document = 200, {}
    for _ in range(50):
        status, document = daemon.over_tcp("GET", "/v1/status", new)
        if status != 200:
            break
    assert (status, document["error"]["code"]) == (429, "busy")
    assert "token:offline sends more than 2" in document["error"]["message"]
    assert daemon.over_tcp("GET", "/v1/status", tokens["operate"])[0] == 200  # each has its own


@pytest.mark.parametrize(("settings", "said"), [
    ('host = "0.0.0.0"', "is not loopback"), ('certfile = "cert.pem"', "go together"),
    ('certfile = "none.pem"\nkeyfile = "none.pem"', "No such file"),
    ('certfile = "cert.pem"\nkeyfile = "open.pem"', "read by others"),
    ('certfile = "adaptd.toml"\nkeyfile = "key.pem"', "http.certfile"),
    ('certfile = "cert.pem"\nkeyfile = "locked.pem"', "password")])
def test_a_configuration_that_would_expose_it_is_refused_and_named(tmp_path: Path, settings: str, said: str) -> None:
    """By `config check` and so by `run`."""
    with Daemon("", tmp_path / "s") as store:
        certify(store.folder)
        (store.folder / "open.pem").write_bytes((store.folder / "key.pem").read_bytes())
        (store.folder / "open.pem").chmod(0o644)
        subprocess.run(["openssl", "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:x", "-out", "locked.pem"],
                       cwd=store.folder, check=True, capture_output=True)
        (store.folder / "locked.pem").chmod(0o600)
        store.paths.config.write_text(f"[http]\n{settings}\n")
        done = subprocess.run([sys.executable, "-m", "adaptd", "config", "check", "--config", str(store.folder)],
                              capture_output=True, text=True, timeout=240)
        assert done.returncode == 78 and said in done.stderr and "hint:" in done.stderr, done.stderr
