"""The daemon: the one place that builds everything and joins it. Read it as the daemon lives:
`run` → `startup` → `main_loop` → `shutdown`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import hmac
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Connection, insert, select, update

from adaptd import __version__, adapt, db, jobs, plugins, registry, restore, systemd
from adaptd import tables as t
from adaptd.api.app import create_app
from adaptd.api.server import Server
from adaptd.config import DomainSettings, Settings
from adaptd.follow import Follower
from adaptd.host import bind, check_folder, log_to_stderr, read_token
from adaptd.ingest import Door
from adaptd.interfaces import Domain, Encoder, Feed, Gate
from adaptd.journal import Journal, last_seq
from adaptd.learn import Learner
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import Head, HeadOptions
from adaptd.paths import Paths
from adaptd.predict import Inference
from adaptd.records import Example, canonical
from adaptd.rows import HoldoutRule, lineage, replay
from adaptd.served import Served, answered_before
from adaptd.service import Meters, Problems, Service
from adaptd.vectors import Vectors
from adaptd.versions import Numbers, Versions

log = logging.getLogger(__name__)
SWITCH_S = 0.0005  # Python's 5 ms would let the writer hold the inference thread up for half an encoding
STALL_S = 60.0  # a loop that has not turned for so long is hung


def run(settings: Settings, paths: Paths) -> int:
    """Run the daemon until it is told to stop; return the exit code."""
    log_to_stderr(settings.log)
    sys.setswitchinterval(SWITCH_S)
    faulthandler.enable()  # a stack dump when the watchdog aborts us
    paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(db.locked(paths.lock))
        return asyncio.run(Daemon(settings, paths).live())


class Daemon:
    """One daemon on one store."""

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self.settings = settings
        self.paths = paths
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._closing = False
        self._problems = Problems()
        self._features: dict[tuple[int, int, int], RandomFeatures] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._saving = threading.Lock()

    async def live(self) -> int:
        """startup → main loop → shutdown."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        try:
            await self.startup()
            await self.main_loop()
        finally:
            await self.shutdown()
        return self._exit_code

    # -- startup ----------------------------------------------------------------------------------------------

    async def startup(self) -> None:
        """Open the store, bring every domain up, listen, probe, say ready."""
        began = time.monotonic()
        token = read_token(self.paths.token) if self.settings.http.tcp else ""
        tcp = bind(self.settings.http.host, self.settings.http.port) if self.settings.http.tcp else None
        await asyncio.to_thread(self._open_store)
        await asyncio.to_thread(self._open_domains)
        self._open_feeds()
        self.service = Service(self.domains, self.followers, self.writer, self.reader, self.inference, self._problems, Meters())
        app = create_app(
            self.service,
            limits=self.settings.limits,
            token_check=lambda given: "token" if hmac.compare_digest(given, token) and token else None,
        )
        self.server = Server(app, unix=self.paths.socket, tcp=tcp)
        await self.server.start()
        self.service.listening = [f"unix:{self.paths.socket}"] + (
            [f"http://{tcp.getsockname()[0]}:{tcp.getsockname()[1]}"] if tcp else []
        )
        await self._probe()
        self.service.state = "running"
        self._scheduler = BackgroundScheduler()
        jobs.schedule(self._scheduler, self.domains, self.save_status)
        self._scheduler.start()
        self._tasks += [asyncio.create_task(follower.run(), name=f"feed-{name}") for name, follower in self.followers.items()]
        self._tasks.append(asyncio.create_task(self._watch(), name="watchdog"))
        systemd.notify("READY=1", f"STATUS=serving {', '.join(self.domains)}")
        log.info("ready after %.1f s: %s", time.monotonic() - began, ", ".join(self.service.listening), extra={"action": "ready"})

    def _open_store(self) -> None:
        """Open database, writer and journal; refuse what is damaged, too new, or not ours to read."""
        check_folder(self.paths.state)
        self.engine = db.writing_engine(self.paths.database)
        if self.paths.database.exists():
            db.quick_check(self.engine)
        before, after = db.upgrade(self.engine)
        if before != after:
            log.info("schema %s -> %s", before, after, extra={"action": "db_upgrade"})
        self.paths.database.chmod(0o600)
        self.reader = db.reading_engine(self.paths.database)
        self.writer = db.Writer(self.engine, self.settings.limits.queue)
        self.writer.on_failure = self._fatal
        self.journal = Journal(self.writer, self._targets, self._deliver)
        for name in adapt.sweep(self.paths.jobs):
            self._problems.report(
                "interrupted_adaptation",
                f"adaptation {name} was interrupted and removed",
                "nothing went live; the next one starts by itself",
            )

    def _open_domains(self) -> None:
        """Load plugins and encoders, enter new domains, bring each to its live state, start the threads."""
        fast = plugins.load("adaptd", self.settings.plugins.allow)
        slow = plugins.load("adaptd.learner", self.settings.plugins.allow)
        self._feed_kinds = plugins.collect(fast, "register_feeds")
        self._gate_kinds = plugins.collect(fast, "register_gates")
        self.strategies = plugins.collect(slow, "register_strategies")
        kinds = plugins.collect(fast, "register_domains")
        served = self.settings.served()
        built = {name: build_domain(kinds, name, settings) for name, settings in served.items()}
        encoders = self._load_encoders(plugins.collect(slow, "register_encoders"), {s.encoder for s in served.values()})
        with self.engine.begin() as connection:
            key = _secret(connection)
            ids, encoder_ids = self._enter(connection, served, encoders)
            first = self._next_version(connection)
        self.inference = Inference(encoders, self.settings.limits.queue)
        self.journal.holdout = {ids[name]: HoldoutRule(s.holdout.share, s.holdout.after) for name, s in served.items()}
        with self.reader.connect() as connection:
            self.journal.open(connection)
            self.writer.start(last_seq(connection))
        self.inference.start()
        self._numbers = Numbers(first)
        self.domains: dict[str, Served] = {}
        self._by_id: dict[int, Served] = {}
        for name, settings in served.items():
            self._bring_up(name, ids[name], built[name], settings, encoder_ids[settings.encoder], key)

    def _load_encoders(self, kinds: dict[str, type], wanted: set[str]) -> dict[str, Encoder]:
        encoders = {}
        for name in sorted(wanted):
            settings = self.settings.encoders[name]
            kind: type[Encoder] = plugins.pick(kinds, settings.kind, f"encoders.{name}.kind")
            encoders[name] = encoder = plugins.build(kind, settings.options, f"encoders.{name}.options")
            encoder.load()
        return encoders

    def _enter(
        self, connection: Connection, served: dict[str, DomainSettings], encoders: dict[str, Encoder]
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Enter domains and encoders that the store does not know; return all ids."""
        ids, encoder_ids = {}, {}
        for name, encoder in encoders.items():
            known = connection.scalar(select(t.encoder.c.id).where(t.encoder.c.digest == encoder.digest))
            encoder_ids[name] = known or registry.inserted(connection, insert(t.encoder).values(digest=encoder.digest))
        for name, settings in served.items():
            known = registry.domain_id(connection, name)
            ids[name] = (
                known
                if known is not None
                else registry.create_domain(connection, name, encoders[settings.encoder].digest, self.settings.digest())[0]
            )
        return ids, encoder_ids

    def _next_version(self, connection: Connection) -> int:
        """Return the next version number; remove folders that a crash left without a row."""
        known = set(connection.execute(select(t.version.c.number)).scalars())
        self.paths.versions.mkdir(mode=0o700, exist_ok=True)
        for folder in self.paths.versions.iterdir():
            if not folder.name.isdecimal() or int(folder.name) not in known:
                shutil.rmtree(folder)
                self._problems.report(
                    "orphan_version",
                    f"versions/{folder.name} belongs to no version and was removed",
                    "it was written before a crash and never went live",
                )
        return int(max(known)) + 1

    def _bring_up(self, name: str, number: int, domain: Domain, settings: DomainSettings, encoder_id: int, key: bytes) -> None:
        """Bring one domain to its live state and start its learner."""
        door = Door(domain, self.settings.limits, key, time.time)
        vectors = Vectors(domain, settings.encoder, encoder_id, self.inference, self.journal, self.reader)
        encoder = self.inference.encoders[settings.encoder]
        heads = {head: self._head(encoder.dim, settings) for head in domain.heads}
        self._check_encoder(name, number, encoder)
        with self.reader.connect() as connection:
            live = registry.live(connection, number)
            version, contents = restore.sound(connection, live.version, self.paths.versions, self._report)
            base = restore.find_base(connection, live, version, self.paths.checkpoints / name, encoder.digest, self._report)
            if version.encoder != encoder.digest:
                contents = {}  # another encoder's adapter and head say nothing about these vectors
            state = restore.load_state(connection, number, base, contents, heads, vectors, self._report)
            tail = replay(connection, number, lineage(connection, live.branch), base.seq)
        if version.number != live.version:
            self._repair(number, version.number, live)
        learner = Learner(
            name,
            state,
            self.inference,
            vectors,
            lambda born: answered_before(self.reader, born),
            block=settings.learn.block,
            solve_after_s=settings.learn.solve_after_s,
        )
        versions = Versions(
            number,
            learner,
            self.journal,
            self.writer,
            self.reader,
            self.paths.versions,
            self._numbers,
            vectors,
            encoder=encoder.digest,
            config=self.settings.digest(),
        )
        gate: Gate = plugins.build(
            plugins.pick(self._gate_kinds, settings.gate.kind, "gate.kind"), settings.gate.options, "gate.options"
        )
        plugins.build(
            plugins.pick(self.strategies, settings.adapt.strategy, "adapt.strategy"), settings.adapt.options, "adapt.options"
        )
        adaptation = adapt.Adaptation(
            name, learner, versions, gate, settings.adapt, self.paths.jobs, self.settings.plugins.allow, self._report
        )
        adaptation.held = self._adaptation_held(number)
        self.domains[name] = self._by_id[number] = Served(
            name=name,
            id=number,
            domain=domain,
            encoder=settings.encoder,
            door=door,
            journal=self.journal,
            inference=self.inference,
            learner=learner,
            versions=versions,
            adaptation=adaptation,
            vectors=vectors,
            reader=self.reader,
            queue=self.settings.limits.queue,
        )
        learner.on_failure = self._fatal
        learner.on_learned = self._after_learning(name, adaptation, settings.learn.checkpoint_labels)
        learner.start()
        learner.deliver(tail)
        solved = all(head.is_solved() for head in heads.values()) and not tail and version.number == live.version
        learner.call(lambda: learner.settle(solved=solved))

    def _check_encoder(self, name: str, number: int, encoder: Encoder) -> None:
        with self.reader.connect() as connection:
            version = registry.version(connection, registry.live(connection, number).version)
        if version.encoder != encoder.digest:
            self._problems.report(
                "encoder_changed",
                f"{name}: the encoder is not the one that version {version.number} was made with",
                "stored events are encoded anew; adapters of the old encoder are not used",
            )

    def _repair(self, domain: int, number: int, live: registry.Live) -> None:
        """Point to the newest sound version; the rows learned since are kept."""
        reason = f"version {live.version} does not match its digest"
        self.writer.submit(
            lambda connection: registry.point(connection, domain, number, live.branch, "repair", "adaptd", reason)
        ).result()

    def _adaptation_held(self, domain: int) -> bool:
        with self.reader.connect() as connection:
            return (
                connection.scalar(select(t.hold.c.since).where(t.hold.c.domain == domain, t.hold.c.what == "adaptation"))
                is not None
            )

    def _head(self, dim: int, settings: DomainSettings) -> Head:
        learn = settings.learn
        options = HeadOptions(
            dim=dim,
            features=learn.features,
            neighbours=settings.memory.neighbours,
            seed=learn.seed,
            abstain_below=learn.abstain_below,
        )
        shared = self._features.setdefault((dim, learn.features, learn.seed), RandomFeatures(dim, learn.features, learn.seed))
        return Head(options, shared)

    def _after_learning(self, name: str, adaptation: adapt.Adaptation, every: int) -> Callable[[int], None]:
        """Return what follows a learned block: count towards an adaptation, now and then a checkpoint."""
        since = 0

        def learned(rows: int) -> None:
            nonlocal since
            adaptation.count(rows)
            since += rows
            if since >= every:
                since = 0
                done = self.domains[name].learner.call(lambda: self._checkpoint(name))
                done.add_done_callback(self._checkpoint_failed)

        return learned

    def _checkpoint_failed(self, done: Future[None]) -> None:
        if (error := done.exception()) is not None:
            self._report("checkpoint_failed", f"a checkpoint could not be written: {error}", "nothing is lost; free some space")

    def _open_feeds(self) -> None:
        self.followers: dict[str, Follower] = {}
        for name, settings in self.settings.feeds.items():
            kind: type[Feed] = plugins.pick(self._feed_kinds, settings.kind, f"feeds.{name}.kind")
            options = {**settings.options}
            if "path" in options:
                options["path"] = str(self.paths.config.parent / options["path"])
            feed = plugins.build(kind, options, f"feeds.{name}.options")
            served = self.domains[settings.domain]
            self.followers[name] = Follower(
                name,
                feed,
                settings.source or name,
                served.id,
                served.door,
                self.journal,
                self.writer,
                self.reader,
                served.learner,
                self.settings.limits.queue,
                self._report,
            )

    async def _probe(self) -> None:
        """Let every champion learn the journal's tail and answer once before the daemon calls itself ready."""
        for name, served in self.domains.items():
            await asyncio.wrap_future(served.learner.when(self.writer.last_seq))
            await asyncio.wrap_future(self.inference.predict(name, served.encoder, [Example(text="ready?")]))

    # -- main loop --------------------------------------------------------------------------------------------

    async def main_loop(self) -> None:
        """Wait for a signal, or for a part to die: a daemon that limps is worse than one that restarts."""
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

    async def _watch(self) -> None:
        """Feed systemd's watchdog only while every loop turns."""
        pause = systemd.watchdog_s() or STALL_S / 3
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            loops = {"writer": self.writer.beat, "inference": self.inference.beat}
            loops |= {f"learner of {name}": served.learner.beat for name, served in self.domains.items()}
            stuck = [name for name, beat in loops.items() if now - beat > STALL_S]
            if stuck:
                self._report(
                    "stalled", f"no sign of life from: {', '.join(stuck)}", "systemd restarts the daemon by its watchdog"
                )
            else:
                systemd.notify("WATCHDOG=1")

    def _on_signal(self) -> None:
        if self._closing or self._stop.is_set():
            log.warning("forced", extra={"action": "forced"})
            os._exit(1)  # the journal is durable; the rest is made again at the next start
        log.info("stopping (a second signal forces)", extra={"action": "stopping"})
        self._stop.set()

    def _fatal(self, error: BaseException) -> None:
        """A part that must not fail has failed: stop without writing anything more; the next start recovers."""
        self._exit_code = 1
        self._loop.call_soon_threadsafe(self._stop.set)

    def _report(self, code: str, message: str, hint: str) -> None:
        log.warning("%s: %s", code, message, extra={"action": code})
        self._problems.report(code, message, hint)

    def _targets(self, domain: int, label: Any) -> dict[str, str]:
        return self._by_id[domain].door.targets(label)

    def _deliver(self, learned: Any) -> None:
        """Hand journal entries to their domain's learner; in the writer's thread, in order."""
        self._by_id[learned[0].domain].learner.deliver(learned)

    # -- shutdown ---------------------------------------------------------------------------------------------

    async def shutdown(self) -> None:
        """Take no more, learn what is journalled, write checkpoints and the last status, close in reverse order."""
        self._closing = True
        systemd.notify("STOPPING=1")
        if hasattr(self, "service"):
            self.service.state = "stopping"
        if hasattr(self, "_scheduler"):
            self._scheduler.shutdown(wait=False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "server"):
            await self.server.stop(self.settings.limits.shutdown_s)
        await asyncio.to_thread(self._close)
        log.info("stopped", extra={"action": "stopped"})

    def _close(self) -> None:
        for served in getattr(self, "domains", {}).values():
            served.adaptation.close()
        if self._exit_code == 0 and hasattr(self, "service"):
            for name, served in self.domains.items():
                served.learner.call(lambda name=name: self._checkpoint(name)).result()  # type: ignore[misc]
            self.save_status(state="stopped")
        if not hasattr(self, "inference"):
            return
        if self._exit_code == 0:
            for served in self.domains.values():
                served.learner.close()
            self.inference.close()
            self.writer.close()

    def _checkpoint(self, name: str) -> None:
        """Write a domain's checkpoint; in its learner's thread, with the ridge solved."""
        served = self.domains[name]
        with self.reader.connect() as connection:
            live = registry.live(connection, served.id)
        restore.write_checkpoint(
            self.paths.checkpoints / name,
            served.id,
            live.branch,
            self.inference.encoders[served.encoder].digest,
            served.learner.state,
        )

    def save_status(self, state: str | None = None) -> None:
        """Keep the status document in the store, for when the daemon is stopped."""
        if self.writer.failed is not None:
            return
        document = canonical(self.service.status() | ({"state": state} if state else {}))

        def write(connection: Connection) -> None:
            done = connection.execute(update(t.store).where(t.store.c.key == "status").values(value=document))
            if not done.rowcount:
                connection.execute(insert(t.store).values(key="status", value=document))

        self.writer.submit(write).result()


def build_domain(kinds: dict[str, type], name: str, settings: DomainSettings) -> Domain:
    """Make a domain: its own class if there is one of that name, else the one its `kind` names."""
    kind = settings.kind or (name if name in kinds else "text")
    built: Domain = plugins.build(plugins.pick(kinds, kind, f"domains.{name}.kind"), settings.options, f"domains.{name}.options")
    return built


def _secret(connection: Connection) -> bytes:
    """Return the store's HMAC key, made once."""
    known = connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac"))
    if known is None:
        known = secrets.token_hex(32)
        connection.execute(insert(t.store).values(key="hmac", value=known))
        connection.execute(insert(t.store).values(key="created_by", value=__version__))
    return bytes.fromhex(known)
