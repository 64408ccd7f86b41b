"""Feeds over TLS with a password, against real brokers: let in with both, kept out without either, and no secret in an error."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adaptd.bench.brokers import Mosquitto, NatsServer, RabbitServer, RedisServer, Server, free_port
from adaptd.bench.tansu import Tansu
from adaptd.plugins import collect, load
from tests.acceptance.brokers import EventServer

pytestmark = [pytest.mark.acceptance, pytest.mark.service]
KINDS: Mapping[str, Any] = collect(load("adaptd", []), "register_feeds")
SECRET = "hunter2"


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


class Tls:
    """Takes TLS connections and hands what they say to a port: the packaged Tansu takes a certificate, but no key for it."""

    def __init__(self, certificate: Path, port: int, inner: int) -> None:
        self._inner = inner
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        opening = asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(opening, self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, inner_writer), self._pass(inner_reader, writer))

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


class SecuredTansu(Tansu):
    """Over TLS; the port of its own, `inner`, lets in without it. It keeps no users, so that nobody passes `locked`."""

    certificate: Path
    front: Tls | None = None
    locked = False

    def start(self) -> None:
        self.inner, outer = self.port, free_port()
        self.advertised = f"tcp://127.0.0.1:{self.inner}"
        super().start()
        self.stop()
        self.advertised = f"tcp://localhost:{outer}"
        Server.start(self)
        self.front, self.port = Tls(self.certificate, outer, self.inner), outer

    def prepare(self) -> None:
        if not self.advertised.startswith("tcp://localhost"):
            super().prepare()

    def close(self) -> None:
        super().close()
        if self.front is not None:
            self.front.close()

    def arguments(self) -> Sequence[str]:
        given = [*super().arguments()]
        given[given.index("--advertised-listener-url") + 1] = self.advertised
        return [*given, *(["--authentication"] if self.locked and self.advertised.startswith("tcp://localhost") else [])]


class SecuredEvents(EventServer):
    certificate: Path

    def start(self) -> None:
        super().start()
        assert self._http is not None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate / "cert.pem", self.certificate / "key.pem")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.login = f"ann:{SECRET}"


MAKE: Mapping[str, Callable[[Any], Awaitable[Any]]] = {
    "nats": lambda client: client.jetstream().add_stream(name="events", subjects=["events.>"]),
    "rabbitmq": lambda connection: _queue(connection),
}


async def _queue(connection: Any) -> None:
    await (await connection.channel()).declare_queue("events", durable=True)


async def connect(feed: Any, kind: str) -> Sequence[Any]:
    """Connect as the daemon does, and return the first batch, which is empty."""
    if kind in MAKE:
        async with feed.connected() as client:
            await MAKE[kind](client)
    async with aclosing(feed.read(None)) as batches:
        return await anext(batches)  # type: ignore[no-any-return]


@pytest.mark.parametrize("made", [SecuredRedis, SecuredNats, SecuredMosquitto, SecuredRabbit, SecuredEvents],
                         ids=lambda cls: cls.kind)
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


def test_tls_lets_in_to_kafka_and_who_is_not_known_is_kept_out(certificate: Path) -> None:
    """That a password lets in is not tried: the Tansu that can be had keeps no users."""
    kind = KINDS["kafka"]
    for locked in (False, True):
        server = SecuredTansu()
        server.certificate, server.locked = certificate, locked
        try:
            server.start()
            options = {**server.options(), "url": f"kafkas://localhost:{server.port}", "ca_file": str(certificate / "cert.pem")}
            login = {"username": "ann", "password": SECRET, "mechanism": "SCRAM-SHA-256"}

            def attempt(**over: Any) -> Sequence[Any]:
                return asyncio.run(asyncio.wait_for(connect(kind(**options | over), "kafka"), 30.0))  # noqa: B023

            refused: list[dict[str, Any]] = [{"ca_file": None}, {"url": f"kafka://localhost:{server.port}"}]
            if not locked:
                assert attempt() == []
            for wrong in [login, login | {"mechanism": "PLAIN"}, {}] if locked else refused:
                with pytest.raises(ConnectionError) as error:
                    attempt(**wrong)
                assert SECRET not in str(error.value) + repr(error.value), wrong
                if wrong is login:
                    assert "SASL" in str(error.value)
        finally:
            server.close()
