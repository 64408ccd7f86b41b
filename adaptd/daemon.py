"""The daemon's life. `adaptd.assembly` builds and joins the parts; read this as the daemon lives:
`run` → `startup` → `main_loop` → `shutdown`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection, insert, update

from adaptd import db, jobs, systemd, tls, tokens
from adaptd import tables as t
from adaptd.api.app import create_app
from adaptd.api.operations import Operations
from adaptd.api.server import Server
from adaptd.assembly import ALERTS, Assembly
from adaptd.config import Settings
from adaptd.errors import AdaptdError, StoreLocked
from adaptd.futures import ended
from adaptd.grants import Keyring
from adaptd.host import OBJECTS, address, bind, check_folder, give_memory_back, log_to_stderr, raise_open_files, read_token
from adaptd.learn import Learner
from adaptd.media import probe
from adaptd.meters import Meters
from adaptd.observe import Problems
from adaptd.paths import Paths
from adaptd.records import canonical
from adaptd.reload import HINT, reload
from adaptd.service import Service
from adaptd.standby import Standby
from adaptd.watchdog import LOOP, Watchdog

if TYPE_CHECKING:
    from adaptd.tracing import Tracer

log = logging.getLogger(__name__)
SWITCH_S = 0.0005  # Python's 5 ms would let the writer hold the inference thread up for half an encoding
ALERTS_S = 2.0  # that a stop waits for alerts on their way
TURN_S = 1.0  # between two heartbeats of the event loop
CLOCK_S = 30.0  # by which the wall's clock jumps when it is set
PROGRESS_S = 2.0  # between two words about a long start


def run(settings: Settings, paths: Paths) -> int:
    """Run the daemon until it is told to stop; return the exit code."""
    log_to_stderr(settings.log)
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(OBJECTS)
    raise_open_files()
    give_memory_back()
    faulthandler.enable()  # a stack dump when the watchdog aborts us
    paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(paths.state)
    with ExitStack() as stack:
        stack.enter_context(db.locked(paths.lock))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(Daemon(settings, paths).live())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's where the `fast` extra is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Daemon:
    """One daemon on one store."""

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self.settings = settings
        self.paths = paths
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._closing = False
        self._problems = Problems()
        self._tasks: list[asyncio.Task[Any]] = []
        self.server: Server | None = None
        self._meters = Meters()
        self._tracer = self._made_tracer()
        told = self._meters.told if self._tracer is None else self._tracer.told(self._meters.told)
        self.parts = Assembly(settings, paths, self._report, self._fatal, told)
        self._watchdog = Watchdog(self.parts.health, self._report)

    async def live(self) -> int:
        """startup → main loop → shutdown."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        try:
            if await self.startup():
                await self.main_loop()
        finally:
            await self.shutdown()
        return self._exit_code

    def _made_tracer(self) -> Tracer | None:
        """Return what traces requests, where it was asked for; it is not imported else."""
        if not self.settings.traces.endpoint:
            return None
        from adaptd.tracing import Tracer

        return Tracer(self.settings.traces, self._report)

    # -- startup ----------------------------------------------------------------------------------------------

    async def startup(self) -> bool:
        """Open the store, bring every domain up, listen, probe, say ready; False where it is told to stop before that."""
        began = time.monotonic()
        http, parts = self.settings.http, self.parts
        self.keyring = Keyring(rate=self.settings.limits.rate)
        if http.tcp:
            self.keyring.own(read_token(self.paths.token))
        self._secure = tls.context(http, self.paths.config.parent) if http.tcp else None
        tcp = bind(http.host, http.port) if http.tcp else None
        self.listening = [f"unix:{self.paths.socket}"] + ([address(tcp, secure=self._secure is not None)] if tcp else [])
        if not await self._take_store(tcp):
            return False
        await asyncio.to_thread(parts.open_store)
        await asyncio.to_thread(parts.open_domains)
        parts.open_feeds()
        parts.open_outputs()
        parts.open_observers()
        with parts.reader.connect() as connection:
            self.keyring.hold(tokens.all_of(connection))
        self._alerts = parts.open_alerts(lambda sink, outcome: self._meters.alerts.labels(sink, outcome).inc())
        self.service = Service(
            parts.domains, parts.followers, parts.publishers, parts.writer, parts.reader, parts.inference, self._problems,
            self._meters, self.paths, self.keyring, parts.health, parts.room, self._alerts
        )
        self.service.watches = parts.watches
        await self._serve(self.service, tcp)
        self.service.listening = self.listening
        await self._probe()
        gc.collect()
        gc.freeze()  # what is there now stays: no look for cycles goes through it again
        self.service.state = "running"
        self._scheduler = BackgroundScheduler()
        look = self.service.look_for_alerts if self._alerts.posts else None
        jobs.schedule(self._scheduler, parts.domains, parts.health, look, self.save_status, self.settings.versions)
        jobs.watch(self._scheduler, parts.watches)
        self._scheduler.start()
        for served in parts.domains.values():
            served.adaptation.go_on()
        self._alerts.start()
        self._tasks += [asyncio.create_task(one.run(), name=f"feed-{name}") for name, one in parts.followers.items()]
        self._tasks += [asyncio.create_task(one.run(), name=f"output-{name}") for name, one in parts.publishers.items()]
        self._tasks.append(asyncio.create_task(self._turn(), name="event loop"))
        self._watchdog.start()
        systemd.notify("READY=1", f"STATUS=serving {', '.join(parts.domains)}")
        log.info("ready after %.1f s: %s", time.monotonic() - began, ", ".join(self.service.listening), extra={"action": "ready"})
        return True

    async def _take_store(self, tcp: socket.socket | None) -> bool:
        """Take hold of the store. In PostgreSQL another daemon may have it: then stand by until it has gone."""
        if self.paths.url is None:
            await asyncio.to_thread(self.parts.take_store)
            return True
        await asyncio.to_thread(self.parts.load)  # first: once it holds the store it must not be silent for long
        try:
            await asyncio.to_thread(self.parts.take_store)
            return True
        except StoreLocked as held:
            standby = Standby(self.paths, held.message, self.listening)
            await self._serve(standby, tcp)
            return await standby.wait(self.parts.take_store, self._stop)

    async def _serve(self, operations: Operations, tcp: socket.socket | None) -> None:
        """Listen and let `operations` answer; where the server listens already, from now on."""
        limits = self.settings.limits
        app = create_app(operations, limits=limits, keyring=self.keyring, report=self._report, tracer=self._tracer)
        if self.server is not None:
            self.server.become(app)
        else:
            self.server = Server(app, unix=self.paths.socket, limits=limits, tcp=tcp, tls=self._secure)
            await self.server.start()

    async def _probe(self) -> None:
        """Let every champion learn the journal's tail and answer once before the daemon calls itself ready."""
        for name, served in self.parts.domains.items():
            await self._caught_up(name, served.learner)
            await asyncio.wrap_future(self.parts.inference.predict(name, served.encoder, [probe(served.domain.reads)]))

    async def _caught_up(self, name: str, learner: Learner) -> None:
        """Wait until a domain has learned what its checkpoint lacks; say now and then how far that is."""
        caught_up, whole = asyncio.wrap_future(learner.when(self.parts.writer.last_seq)), learner.lag
        while not (await asyncio.wait([caught_up], timeout=PROGRESS_S))[0]:
            words = f"{name}: {whole - learner.lag} of {whole} labels learned again"
            systemd.notify(f"STATUS={words}", f"EXTEND_TIMEOUT_USEC={int(10 * PROGRESS_S * 1e6)}")
            log.info(words, extra={"action": "recovering", "domain": name})
        await caught_up

    # -- main loop --------------------------------------------------------------------------------------------

    async def main_loop(self) -> None:
        """Wait for a signal, or for a part to die: a daemon that limps is worse than one that restarts."""
        assert self.server is not None
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        serving = asyncio.create_task(self.server.wait(), name="serving")
        done, _ = await asyncio.wait([stopping, serving, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            log.critical(
                "%s ended: %s",
                task.get_name(),
                task.exception() if not task.cancelled() else "cancelled",
                extra={"action": "part_died"},
            )
            self._exit_code = 1
        stopping.cancel()

    async def _turn(self) -> None:
        """Show that this loop turns: the feeds turn in it, and a feed that holds it up holds everything up."""
        self.parts.health.watch(LOOP)
        ahead = time.time() - time.monotonic()
        while True:
            self.parts.health.beat(LOOP)
            if abs(time.time() - time.monotonic() - ahead) > CLOCK_S:
                ahead = time.time() - time.monotonic()
                log.warning("the clock was set", extra={"action": "clock"})
                jobs.clock_was_set(self._scheduler)
            await asyncio.sleep(TURN_S)

    def _on_signal(self) -> None:
        if self._closing or self._stop.is_set():
            log.warning("forced", extra={"action": "forced"})
            os._exit(1)  # the journal is durable; the rest is made again at the next start
        log.info("stopping (a second signal forces)", extra={"action": "stopping"})
        self._stop.set()

    def _on_reload(self) -> None:
        """Read the configuration again, once the daemon serves; the signal must not end it before that either."""
        if not self._tasks or self._closing:
            log.warning("not reloaded: the daemon is starting or stopping", extra={"action": "reload"})
            return
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        for part in (self._renew_certificate, self._reload_settings):  # each whatever the other comes to
            try:
                part()
            except AdaptdError as error:
                self._report("bad_config", f"not reloaded: {error}", HINT)
            except OSError as error:
                self._report("bad_config", f"not reloaded: {error.filename or self.paths.config}: {error.strerror}", HINT)
        systemd.notify("READY=1")

    def _renew_certificate(self) -> None:
        http = self.settings.http
        if http.tcp and self.server is not None and (renewed := tls.context(http, self.paths.config.parent)) is not None:
            self.server.renew(renewed)

    def _reload_settings(self) -> None:
        self.settings = reload(self.settings, self.paths, self.parts)

    def _fatal(self, error: BaseException) -> None:
        """A part that must not fail has failed: stop without writing anything more; the next start recovers."""
        self._exit_code = 1
        self._loop.call_soon_threadsafe(self._stop.set)

    def _report(self, code: str, message: str, hint: str) -> None:
        log.warning("%s: %s", code, message, extra={"action": code})
        self._problems.report(code, message, hint)

    # -- shutdown ---------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Take no more, learn what is journalled, write checkpoints and the last status, close in reverse order."""
        self._closing = True
        self._watchdog.stop()
        systemd.notify("STOPPING=1")
        if hasattr(self, "service"):
            self.service.state = "stopping"
        if hasattr(self, "_scheduler"):
            self._scheduler.shutdown(wait=False)
        late = await ended(self._tasks, self.settings.limits.shutdown_s)
        if self.server is not None:
            await self.server.stop(self.settings.limits.shutdown_s)
        if hasattr(self.parts, "bulk"):
            await self.parts.bulk.close()
        await asyncio.to_thread(self._close)
        if late:
            names = ", ".join(sorted(task.get_name() for task in late))
            log.error("stopped without waiting for: %s", names, extra={"action": "forced"})
            os._exit(1)  # all is durable; whoever waits for what does not end would wait for ever
        log.info("stopped", extra={"action": "stopped"})

    def _close(self) -> None:
        for served in self.parts.domains.values():
            served.close()
        if hasattr(self, "_alerts"):
            self._alerts.close(ALERTS_S)
        if self._exit_code == 0 and hasattr(self, "service"):
            for name, served in self.parts.domains.items():
                served.learner.call(lambda name=name: self.parts.checkpoint(name)).result()  # type: ignore[misc]
            self.save_status(state="stopped")
        if not hasattr(self.parts, "inference"):
            return
        if self._exit_code == 0:
            for served in self.parts.domains.values():
                served.learner.close()
            self.parts.inference.close()
            self.parts.writer.close()
            for engine in (self.parts.reader, self.parts.engine):
                engine.dispose()
        if self._tracer is not None:
            self._tracer.close()

    def save_status(self, state: str | None = None) -> None:
        """Keep the status document in the store, for when the daemon is stopped, what alert sinks were told, who used a token."""
        if self.parts.writer.failed is not None:
            return
        documents = {"status": canonical(self.service.status() | ({"state": state} if state else {}))}
        if self._alerts.posts:
            documents[ALERTS] = canonical(self._alerts.facts())

        def write(connection: Connection) -> None:
            tokens.note_used(connection, self.keyring.used())
            for key, document in documents.items():
                done = connection.execute(update(t.store).where(t.store.c.key == key).values(value=document))
                if not done.rowcount:
                    connection.execute(insert(t.store).values(key=key, value=document))

        self.parts.writer.submit(write).result()
