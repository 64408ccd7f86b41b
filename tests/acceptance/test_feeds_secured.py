"""Feeds over TLS with a password, against real brokers: let in with both, kept out without either, and no secret in an error."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adaptd.plugins import collect, load
from tests.acceptance.brokers import Mosquitto, NatsServer, RabbitServer, RedisServer, Server
from tests.conftest import missing

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
KINDS: Mapping[str, Any] = collect(load("adaptd", []), "register_feeds")
SECRET = "hunter2"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate for localhost, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        missing("openssl")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
                   cwd=folder, check=True, capture_output=True)
    return folder


class SecuredRedis(RedisServer):
    certificate: Path
    answers = Server.answers

    def arguments(self) -> Sequence[str]:
        cert, key = self.certificate / "cert.pem", self.certificate / "key.pem"
        return ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(cert), "--tls-key-file", str(key),
                "--tls-ca-cert-file", str(cert), "--tls-auth-clients", "no", "--requirepass", SECRET, "--dir", str(self.folder)]


class SecuredNats(NatsServer):
    certificate: Path

    def arguments(self) -> Sequence[str]:
        return [*super().arguments(), "--tls", "--tlscert", str(self.certificate / "cert.pem"), "--tlskey",
                str(self.certificate / "key.pem"), "--user", "ann", "--pass", SECRET]

    def prepare(self) -> None:
        """The stream is made by who is let in."""


class SecuredMosquitto(Mosquitto):
    certificate: Path

    def arguments(self) -> Sequence[str]:
        given = super().arguments()
        passwords = self.folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "ann", SECRET], check=True, capture_output=True)
        config = Path(given[1])
        config.write_text(config.read_text().replace("allow_anonymous true", "allow_anonymous false")
                          + f"password_file {passwords}\ncertfile {self.certificate / 'cert.pem'}\n"
                            f"keyfile {self.certificate / 'key.pem'}\n")
        return given


class SecuredRabbit(RabbitServer):
    certificate: Path
    answers = Server.answers

    def environment(self) -> Mapping[str, str]:
        config = self.folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{self.port}\ndefault_user = ann\n"
                          f"default_pass = {SECRET}\nssl_options.cacertfile = {self.certificate / 'cert.pem'}\n"
                          f"ssl_options.certfile = {self.certificate / 'cert.pem'}\n"
                          f"ssl_options.keyfile = {self.certificate / 'key.pem'}\n")
        return {**super().environment(), "RABBITMQ_CONFIG_FILE": str(config.with_suffix("")), "RABBITMQ_NODE_PORT": ""}

    def prepare(self) -> None:
        """The queue is made by who is let in."""


MAKE: Mapping[str, Callable[[Any], Awaitable[Any]]] = {
    "nats": lambda client: client.jetstream().add_stream(name="events", subjects=["events.>"]),
    "rabbitmq": lambda connection: _queue(connection),
}


async def _queue(connection: Any) -> None:
    await (await connection.channel()).declare_queue("events", durable=True)


async def connect(feed: Any, kind: str) -> Sequence[Any]:
    """Connect as the daemon does, and return the first batch, which is empty."""
    if kind in MAKE:
        async with feed._connected() as client:
            await MAKE[kind](client)
    async with aclosing(feed.read(None)) as batches:
        return await anext(batches)  # type: ignore[no-any-return]


@pytest.mark.parametrize("made", [SecuredRedis, SecuredNats, SecuredMosquitto, SecuredRabbit], ids=lambda cls: cls.kind)
def test_tls_and_a_password_let_in(made: type[Any], certificate: Path) -> None:
    server = made()
    server.certificate = certificate
    kind = KINDS[server.kind]
    try:
        server.start()
        user = {} if server.kind == "redis" else {"username": "ann"}
        options = {**server.options(), **user, "url": f"{kind.schemes[1]}://localhost:{server.port}", "password": SECRET,
                   "ca_file": str(certificate / "cert.pem")}

        def attempt(**over: Any) -> Sequence[Any]:
            return asyncio.run(asyncio.wait_for(connect(kind(**options | over), server.kind), 30.0))

        assert attempt() == []
        for wrong in ({"password": f"not{SECRET}"}, {"ca_file": None}, {"url": f"{kind.schemes[0]}://localhost:{server.port}"}):
            with pytest.raises(Exception) as refused:
                attempt(**wrong)
            assert SECRET not in str(refused.value) + repr(refused.value), wrong
    finally:
        server.close()
