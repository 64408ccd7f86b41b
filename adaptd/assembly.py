"""Assembly: everything of a daemon built and joined, from the store on disk to domains that answer.

`take_store` → `open_store` → `open_domains` → `open_feeds`, `open_outputs`, in this order; `adaptd.daemon` lives with what they
leave.
"""

from __future__ import annotations

import functools
import json
import logging
import secrets
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from adaptd import (
    __version__,
    adapt,
    alerts,
    bounds,
    db,
    erase,
    feeds,
    incumbent,
    mirror,
    outputs,
    plugins,
    registry,
    restore,
    rules,
    tomlfile,
)
from adaptd import tables as t
from adaptd.alerts import Alerts, Post
from adaptd.config import DomainSettings, Settings
from adaptd.counterfactual import Counterfactual
from adaptd.drift import Change
from adaptd.follow import Follower
from adaptd.forget import Forgetting
from adaptd.health import Health
from adaptd.history import last_seq
from adaptd.host import Room, check_not_lost
from adaptd.ingest import Door
from adaptd.interfaces import Domain, Encoder, Gate
from adaptd.journal import Journal
from adaptd.learn import Incumbent, Learner
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import CATCH_UP, Head, HeadOptions
from adaptd.paths import Paths
from adaptd.predict import Inference
from adaptd.probation import Probation
from adaptd.publish import Publisher
from adaptd.quarantine import Finding
from adaptd.records import Report, Said
from adaptd.redact import redactor
from adaptd.refold import Refold, Rules, made
from adaptd.review import Review
from adaptd.rows import HoldoutRule, answered_before
from adaptd.served import Served
from adaptd.stages import Told, unheard
from adaptd.status import is_there
from adaptd.vectors import Vectors
from adaptd.versions import Numbers, Versions
from adaptd.watchdog import patience_s

log = logging.getLogger(__name__)
ALERTS = "alerts"  # where the store keeps what sinks were told


class Assembly:
    """The parts of one daemon. `report` hears of problems, `fatal` of a part that must not fail and did."""

    def __init__(self, settings: Settings, paths: Paths, report: Report, fatal: Callable[[BaseException], None],
                 told: Told = unheard) -> None:
        self.settings = settings
        self.paths = paths
        self._report = report
        self._fatal = fatal
        self._told = told
        self._features: dict[tuple[int, int, int], RandomFeatures] = {}
        self._by_id: dict[int, Served] = {}
        self.domains: dict[str, Served] = {}
        self.followers: dict[str, Follower] = {}
        self.publishers: dict[str, Publisher] = {}
        self.health = Health(patience_s())

    def take_store(self) -> None:
        """Open the database; refuse one that is damaged, or that another daemon writes."""
        store = self.paths.store
        if not hasattr(self, "engine"):
            check_not_lost(self.paths, is_there(store))
            self.engine = db.writing_engine(store)
        db.check(self.engine)
        if isinstance(store, Path):
            store.chmod(0o600)

    def open_store(self) -> None:
        """Bring the schema up to date, open writer and journal; refuse what is too new."""
        self.room = Room(self.paths.state, self.settings.limits.free_mb, self._report)
        before, after = db.upgrade(self.engine)
        if before != after:
            log.info("schema %s -> %s", before, after, extra={"action": "db_upgrade"})
        mirror.attach(self.engine, self.paths)
        self.reader = db.reading_engine(self.paths.store)
        self.writer = db.Writer(self.engine, self.settings.limits.queue)
        self.writer.on_failure, self.writer.told = self._fatal, self._told
        self.health.watch("writer", lambda: self.writer.beat)
        self.journal = Journal(self.writer, self._targets, self._deliver)
        for name in adapt.sweep(self.paths.jobs):
            self._report(
                "interrupted_adaptation",
                f"adaptation {name} was interrupted and removed",
                "nothing went live; the next one starts by itself",
            )

    def load(self) -> None:
        """Load plugins and encoders: what takes time and needs no store."""
        fast = plugins.load("adaptd", self.settings.plugins.allow)
        slow = plugins.load("adaptd.learner", self.settings.plugins.allow)
        self._feed_kinds = plugins.collect(fast, "register_feeds")
        self._output_kinds = plugins.collect(fast, "register_outputs")
        self._gate_kinds = plugins.collect(fast, "register_gates")
        self._sink_kinds = plugins.collect(fast, "register_alert_sinks")
        self.strategies = plugins.collect(slow, "register_strategies")
        self._policies = plugins.collect(slow, "register_memory_policies")
        kinds = plugins.collect(fast, "register_domains")
        served = self.settings.served()
        self._built = {name: build_domain(kinds, name, settings) for name, settings in served.items()}
        self._encoders = self._load_encoders(plugins.collect(slow, "register_encoders"), {s.encoder for s in served.values()})

    def open_domains(self) -> None:
        """Load what is not loaded, enter new domains, bring each to its live state, start the threads."""
        if not hasattr(self, "_encoders"):
            self.load()
        served, encoders = self.settings.served(), self._encoders
        with self.engine.begin() as connection:
            key = _secret(connection)
            ids, encoder_ids = self._enter(connection, served, encoders)
            first = self._next_version(connection)
        self.inference = Inference(encoders, self.settings.limits.queue)
        self.inference.told = self._told
        self.journal.holdout = {ids[name]: HoldoutRule(s.holdout.share, s.holdout.after) for name, s in served.items()}
        with self.reader.connect() as connection:
            self.journal.open(connection)
            self.writer.start(last_seq(connection))
        self.inference.start()
        self.health.watch("inference", lambda: self.inference.beat)
        self._numbers = Numbers(first)
        for name, settings in served.items():
            self._bring_up(name, ids[name], self._built[name], settings, encoder_ids[settings.encoder], key)
            self.health.watch(f"learner:{name}", partial(getattr, self.domains[name].learner, "beat"))

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
                self._report(
                    "orphan_version",
                    f"versions/{folder.name} belongs to no version and was removed",
                    "it was written before a crash and never went live",
                )
        return int(max(known)) + 1

    def _bring_up(self, name: str, number: int, domain: Domain, settings: DomainSettings, encoder_id: int, key: bytes) -> None:
        """Bring one domain to its live state and start its learner."""
        door = Door(domain, self.settings.limits, key, time.time, redactor(settings.redact, key, f"domains.{name}.redact"))
        vectors = Vectors(domain, settings.encoder, encoder_id, self.inference, self.journal, self.reader)
        encoder = self.inference.encoders[settings.encoder]
        refold = self._refold(number, domain, settings, encoder.dim, vectors)
        heads = refold.heads()
        self._check_encoder(name, number, encoder)
        with self.reader.connect() as connection:
            if (pending := erase.pending(connection, number)) is not None:
                erase.remove_files(self.paths, name, pending["files"])  # before anything is read from them
            live = registry.live(connection, number)
            version, contents = restore.sound(connection, live.version, self.paths.versions, self._report)
            base = restore.find_base(connection, live, version, self.paths.checkpoints / name, encoder.digest, self._report)
            if version.encoder != encoder.digest:
                contents = {}  # another encoder's adapter and head say nothing about these vectors
        refold.up_to(base.seq)
        with self.reader.connect() as connection:
            state = restore.load_state(connection, number, base, contents, heads, vectors, settings.quarantine, self._report)
            tail, kept = restore.tail(connection, number, live.branch, base.seq, encoder_id)
            if version.number == live.version and settings.probation.labels:
                state.trial = restore.trial(connection, number, base, heads, self.paths.versions, encoder.digest, self._report)
        if version.number != live.version:
            self._repair(number, version.number, live)
        learner = Learner(
            name,
            state,
            self.inference,
            vectors,
            self._answered_before,
            block=settings.learn.block,
            solve_after_s=settings.learn.solve_after_s,
            incumbent=self._said_by_incumbent(number, door),
            quarantine=settings.quarantine,
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
        adaptation = adapt.Adaptation(
            name,
            learner,
            versions,
            self._gate(settings),
            settings.adapt,
            self.paths.jobs,
            self.paths.runs,
            self.settings.plugins.allow,
            self._report,
        )
        adaptation.held, adaptation.suffers = self._adaptation_held(number), self.inference.suffers
        probation = Probation(number, name, learner, versions, adaptation, self.writer, settings.probation, self._report)
        forgetting = Forgetting(
            number,
            name,
            learner,
            versions,
            adaptation,
            vectors,
            self.journal,
            self.writer,
            self.reader,
            self.paths,
            refold,
            encoder.digest,
            self._report,
        )
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
            probation=probation,
            forgetting=forgetting,
            counterfactual=Counterfactual(number, learner, self.inference, self.reader, self.paths.versions),
            review=self._review(number, door, learner, vectors),
            vectors=vectors,
            reader=self.reader,
            queue=self.settings.limits.queue,
            room=self.room,
            rules=rules.of(domain, name, settings.rules),
            told=self._told,
        )
        self._connect(self.domains[name], settings, refold)
        learner.start()
        refold.outcomes_at(base, learner)
        learner.resume(tail, kept)
        learner.call(partial(learner.settle, solved=all(head.is_solved() for head in heads.values()) and not tail
                                                     and version.number == live.version
                                                     and not (base.own and version.trails)))
        forgetting.finish()

    def _connect(self, served: Served, settings: DomainSettings, refold: Refold) -> None:
        """Give what a learner finds to those whom it concerns."""
        learner, name = served.learner, served.name
        learner.on_failure, learner.told, learner.on_finding = self._fatal, self._told, partial(self._set_aside, served.id)
        learner.follows_changes, learner.on_change = settings.drift.enabled, partial(self._follow, served.id)
        learner.forgotten = self.journal.forgotten
        learner.record, learner.record_tested = refold.record, partial(self.journal.tested, served.vectors.encoder_id)
        learner.on_learned = self._after_learning(name, served.adaptation, served.probation, settings.learn.checkpoint_labels)
        # where the sums took long to make, the next start need not
        learner.on_caught_up = lambda rows: self._checkpoint_soon(name) if rows > CATCH_UP else None

    def _review(self, number: int, door: Door, learner: Learner, vectors: Vectors) -> Review:
        counterfactual = Counterfactual(number, learner, self.inference, self.reader, self.paths.versions)
        read = incumbent.reader(door.targets, door.domain.heads)
        return Review(number, door.domain, read, learner, self.inference, vectors, self.journal, counterfactual, self.reader)

    def _gate(self, settings: DomainSettings) -> Gate:
        """Return the gate; a strategy that is wrong is refused here rather than at the first adaptation."""
        gate: Gate = plugins.build(
            plugins.pick(self._gate_kinds, settings.gate.kind, "gate.kind"), settings.gate.options, "gate.options"
        )
        plugins.build(
            plugins.pick(self.strategies, settings.adapt.strategy, "adapt.strategy"), settings.adapt.options, "adapt.options"
        )
        return gate

    def _refold(self, number: int, domain: Domain, settings: DomainSettings, dim: int, vectors: Vectors) -> Refold:
        """Let the configured limits of memory hold from now on; return what makes heads with them, and evictions again."""
        limits = settings.memory.model_dump(include={"capacity", "per_class", "policy", "options"})
        made(limits, self._policies)  # refused here rather than when the memory is full
        given = self.writer.submit(lambda connection: bounds.impose(connection, number, limits, self.writer.last_seq)).result()
        rules = Rules(given, self._policies)
        return Refold(
            domain=number,
            reader=self.reader,
            vectors=vectors,
            heads=lambda: {head: self._head(dim, settings, rules, vectors) for head in domain.heads},
            record=functools.partial(self.journal.evicted, number),
            block=settings.learn.block,
        )

    def _check_encoder(self, name: str, number: int, encoder: Encoder) -> None:
        with self.reader.connect() as connection:
            version = registry.version(connection, registry.live(connection, number).version)
        if version.encoder != encoder.digest:
            self._report(
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

    def _head(self, dim: int, settings: DomainSettings, rules: Rules, vectors: Vectors) -> Head:
        learn = settings.learn
        options = HeadOptions(
            dim=dim,
            features=learn.features,
            neighbours=settings.memory.neighbours,
            seed=learn.seed,
            abstain_error=learn.abstain_error,
            out_of_scope=learn.out_of_scope,
        )
        shared = self._features.setdefault((dim, learn.features, learn.seed), RandomFeatures(dim, learn.features, learn.seed))
        head = Head(options, shared)
        head.bounded.rules = rules
        head.bounded.read_from(vectors)
        return head

    def _after_learning(self, name: str, adaptation: adapt.Adaptation, probation: Probation,
                        every: int) -> Callable[[int], None]:
        """Return what follows a learned block: count towards an adaptation, look at a probation, now and then a checkpoint."""
        since = 0

        def learned(rows: int) -> None:
            nonlocal since
            adaptation.count(rows)
            probation.judge()
            since += rows
            if since >= every:
                since = 0
                self._checkpoint_soon(name)

        return learned

    def _checkpoint_soon(self, name: str) -> None:
        done = self.domains[name].learner.call(lambda: self.checkpoint(name))
        done.add_done_callback(self._checkpoint_failed)

    def _set_aside(self, domain: int, found: Finding) -> tuple[int, int] | None:
        """Hold a source that contradicts others; in the learner's thread, before what it taught is answered with."""
        outcome = self.journal.set_aside(domain, found, found.words()).result()
        if outcome is None:
            return None
        log.warning("source %r is on hold: %s", found.source, found.words(), extra={"action": "quarantine"})
        return outcome.learned[0].seq, outcome.learned[-1].seq

    def _follow(self, domain: int, found: Change) -> None:
        """Let remembered rows follow a label that changed; in the learner's thread, behind what came meanwhile."""
        if self.journal.follow(domain, found, found.words()).result() is not None:
            log.warning("%s", found.words(), extra={"action": "drift"})

    def _checkpoint_failed(self, done: Future[None]) -> None:
        if (error := done.exception()) is not None:
            self._report("checkpoint_failed", f"a checkpoint could not be written: {error}", "nothing is lost; free some space")

    def open_feeds(self) -> None:
        """Build the configured feeds; paths are relative to the folder of the configuration."""
        for name, settings in self.settings.feeds.items():
            feed, fields = feeds.build(self._feed_kinds, name, settings, self.paths.config.parent)
            served = self.domains[settings.domain]
            self.followers[name] = Follower(
                name,
                feed,
                fields,
                settings.source or name,
                served.id,
                served.door,
                self.journal,
                self.writer,
                self.reader,
                served.learner,
                self.settings.limits.queue,
                self.room,
                self._report,
            )
            self.health.watch(f"feed:{name}", partial(getattr, self.followers[name], "beat"), limit_s=None,  # may be silent
                              state=self.followers[name].state)

    def open_outputs(self) -> None:
        """Build the configured outputs; paths are relative to the folder of the configuration."""
        for name, settings in self.settings.outputs.items():
            output = outputs.build(self._output_kinds, name, settings, self.paths.config.parent)
            domains = {served.id: domain for domain, served in self.domains.items() if settings.domain in (None, domain)}
            self.publishers[name] = Publisher(name, output, settings, domains, self.reader, self.writer, self._ask)
            self.health.watch(f"output:{name}", partial(getattr, self.publishers[name], "beat"), limit_s=None,  # may be away
                              state=self.publishers[name].state)

    def _ask(self, domain: str, count: int) -> dict[str, Any]:
        """Return what to ask a person about in a domain."""
        return self.domains[domain].review.items(count, None)

    def open_alerts(self, count: Callable[[str, str], None]) -> Alerts:
        """Build the configured sinks, and tell them what they were told before the start."""
        store, hidden = str(self.paths.state), tomlfile.secrets(self.paths.config)
        told = Alerts([Post(name, alerts.build(self._sink_kinds, name, settings), settings, store, count, hidden)
                       for name, settings in self.settings.alerts.items()])
        with self.reader.connect() as connection:
            told.remember(json.loads(connection.scalar(select(t.store.c.value).where(t.store.c.key == ALERTS)) or "{}"))
        return told

    def _targets(self, domain: int, label: Any) -> dict[str, str]:
        return self._by_id[domain].door.targets(label)

    def _answered_before(self, born: dict[int, int]) -> dict[int, Said]:
        """Return what events were answered with before their labels came."""
        with self.reader.connect() as connection:
            return answered_before(connection, born)

    def _said_by_incumbent(self, domain: int, door: Door) -> Incumbent:
        """Return what looks up the incumbent's answers to events."""
        read = incumbent.reader(door.targets, door.domain.heads)

        def said(born: dict[int, int]) -> dict[int, dict[str, str | None]]:
            with self.reader.connect() as connection:
                return incumbent.answers(connection, domain, born, read)

        return said

    def _deliver(self, learned: Any) -> None:
        """Hand journal entries to their domain's learner; in the writer's thread, in order."""
        self._by_id[learned[0].domain].learner.deliver(learned)

    def checkpoint(self, name: str) -> None:
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
