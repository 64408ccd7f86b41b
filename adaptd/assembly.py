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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select
from torch import Tensor

from adaptd import (
    __version__,
    adapt,
    alerts,
    begun,
    bounds,
    db,
    doorkeeper,
    erase,
    feeds,
    heads,
    incumbent,
    mirror,
    outputs,
    plugins,
    registry,
    restore,
    rules,
    tomlfile,
    training,
)
from adaptd import tables as t
from adaptd.admission import Admission
from adaptd.alerts import Alerts, Post
from adaptd.bulk import Bulk
from adaptd.config import DomainSettings, Settings
from adaptd.counterfactual import Counterfactual
from adaptd.drift import Change
from adaptd.errors import BadConfig
from adaptd.examine import Incumbent
from adaptd.follow import Follower
from adaptd.forget import Forgetting
from adaptd.generation import Generation
from adaptd.heads import Classify
from adaptd.health import Health
from adaptd.history import last_seq
from adaptd.host import Room, check_not_lost
from adaptd.ingest import Door
from adaptd.interfaces import Domain, Encoder, Gate, Observer, Tunable
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.library import Library
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.network import CATCH_UP, Head, HeadOptions
from adaptd.model.tuning import Tuning
from adaptd.paths import Paths
from adaptd.predict import Inference
from adaptd.probation import Probation
from adaptd.publish import Publisher
from adaptd.quarantine import Finding
from adaptd.ranking import Ranking
from adaptd.records import Example, Report, Said
from adaptd.refold import Refold, Rules, made
from adaptd.review import Review
from adaptd.rows import HoldoutRule, answered_before
from adaptd.served import Served
from adaptd.stages import Told, unheard
from adaptd.status import is_there
from adaptd.tagging import Tagging, check_tags, tagging
from adaptd.vectors import Vectors
from adaptd.versions import Numbers, Versions
from adaptd.vocabulary import Vocabulary
from adaptd.watch import Watch
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
        self.watches: dict[str, Watch] = {}
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
        adapting = [name for name, settings in self.settings.served().items() if settings.adapt.enabled]
        for name in begun.sweep(self.paths.jobs, adapting):
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
        self._observer_kinds = plugins.collect(fast, "register_observers")
        self.strategies = plugins.collect(slow, "register_strategies")
        self._policies = plugins.collect(slow, "register_memory_policies")
        kinds = plugins.collect(fast, "register_domains")
        served = self.settings.served()
        self._built = {name: plugins.domain(kinds, name, settings) for name, settings in served.items()}
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
        self.bulk = Bulk(partial(doorkeeper.job, self.settings, key, self.paths.config.parent), self.settings.limits.queue)
        self.inference = Inference(encoders, self.settings.limits.queue)
        self.inference.told = self._told
        self.journal.births.holdout = {
            ids[name]: HoldoutRule(s.holdout.share, s.holdout.after, heads.written(self._built[name].heads))
            for name, s in served.items()}
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
        encoders: dict[str, Encoder] = {}
        for name in sorted(wanted):
            settings = self.settings.encoders[name]
            kind: type[Encoder] = plugins.pick(kinds, settings.kind, f"encoders.{name}.kind")
            encoders[name] = plugins.build(kind, settings.options, f"encoders.{name}.options")
        for name, domain in self.settings.served().items():
            check_reads(name, self._built[name], domain.encoder, encoders[domain.encoder])
        for encoder in encoders.values():
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
        door = Door.of(domain, name, settings, self.settings.limits, self.settings.blobs, key, self.paths.config.parent,
                       self._tagging(name, number, domain, settings))
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
        adaptation.children.suffers, adaptation.counting = self.inference.suffers, False
        if self._adaptation_held(number):
            adaptation.hold()
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
            admission=self._admission(number, settings, door, adaptation, versions, vectors, learner),
            vectors=vectors,
            reader=self.reader,
            queue=self.settings.limits.queue,
            room=self.room,
            rules=rules.of(domain, name, settings.rules),
            bulk=self.bulk,
            ranking=self._ranking(number, domain, vectors, settings.encoder),
            library=self._library(name, settings, door.vocabulary),
            generation=self._generation(name, domain, settings),
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

    def _tagging(self, name: str, number: int, domain: Domain, settings: DomainSettings) -> Tagging | None:
        """Tell the journal how a domain's spans become rows; None of one that tags no words."""
        self.journal.births.tagging[number] = found = tagging(name, domain, settings)
        return found

    def _connect(self, served: Served, settings: DomainSettings, refold: Refold) -> None:
        """Give what a learner finds to those whom it concerns."""
        learner, name = served.learner, served.name
        learner.on_failure, learner.told, learner.on_finding = self._fatal, self._told, partial(self._set_aside, served.id)
        learner.follows_changes, learner.on_change = settings.drift.enabled, partial(self._follow, served.id)
        learner.forgotten, learner.examiner.tuned = self.journal.forgotten, served.vectors.tuned
        served.adaptation.consolidates(settings.consolidate, self._reads(served))
        if (generation := served.generation) is not None:
            served.adaptation.writes = training.Writes(domain=name, kind=settings.kind, options=settings.options,
                                                       folder=self.paths.config.parent, pairs=served.pairs)
            learner.on_published = lambda snapshot: generation.adopt(snapshot.weights)
        learner.record, learner.examiner.record = refold.record, partial(self.journal.tested, served.vectors.encoder_id)
        learner.on_learned = self._after_learning(name, served.adaptation, served.probation, settings.learn.checkpoint_labels)
        # where the sums took long to make, the next start need not
        learner.on_caught_up = lambda rows: self._checkpoint_soon(name) if rows > CATCH_UP else None

    def _ranking(self, number: int, domain: Domain, vectors: Vectors, encoder: str) -> Ranking | None:
        def encode(examples: Sequence[Example]) -> Tensor:
            vectors, _ = self.inference.encode(encoder, examples).result()
            assert isinstance(vectors, Tensor)  # a domain that tags words has no ranker
            return vectors

        return None if domain.ranker is None else Ranking(number, domain, domain.ranker, vectors, encode, self.reader)

    def _generation(self, name: str, domain: Domain, settings: DomainSettings) -> Generation | None:
        """Return what writes a domain's texts."""
        written = heads.written(domain.heads)
        if not written:
            return None
        if len(written) > 1 or domain.reads != "text" or type(domain).generator is Domain.generator:
            raise BadConfig(f"domains.{name}: a domain whose texts are written has one such head, reads text and has a generator",
                            field=f"domains.{name}.kind", hint="docs/heads.md says how")
        job = {"kind": settings.kind, "options": settings.options, "plugins": list(self.settings.plugins.allow)}
        generation = Generation(name, job, self.paths.config.parent, self._report)
        generation.start()
        return generation

    def _admission(self, number: int, settings: DomainSettings, door: Door, adaptation: adapt.Adaptation, versions: Versions,
                   vectors: Vectors, learner: Learner) -> Admission:
        counterfactual = Counterfactual(number, learner, self.inference, self.reader, self.paths.versions)
        self.journal.births.weak[number] = frozenset(map(door.named, settings.weak.sources))
        return Admission(number, settings.weak, door, learner, versions, adaptation, self.journal, counterfactual, self.inference,
                         vectors, self.reader)

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
        plugins.build(Tuning, settings.consolidate.options, "consolidate.options")
        return gate

    def _reads(self, served: Served) -> training.Reads:
        """Return what a consolidation's process needs to read events itself."""
        configured, encoder = self.settings.encoders[served.encoder], self.inference.encoders[served.encoder]
        tunable = isinstance(encoder, Tunable) and encoder.reads == "text" and not getattr(encoder, "tags", False)
        return training.Reads(kind=configured.kind, options=configured.options, examples=served.vectors.examples,
                              tunable=tunable and any(type(head) is Classify for head in served.domain.heads.values()))

    def _library(self, name: str, settings: DomainSettings, words: Vocabulary | None) -> Library | None:
        """Return what searches the domain's documents; the folder is seen from that of the configuration."""
        if settings.documents.folder is None:
            return None
        folder = self.paths.config.parent / settings.documents.folder

        def encode(examples: Sequence[Example]) -> Tensor:
            vectors, _ = self.inference.encode(settings.encoder, examples).result()
            assert isinstance(vectors, Tensor)  # a domain that tags words has no documents
            return vectors

        return Library(name, settings.documents, folder, encode, self._report, words.also if words else lambda text: ())

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
            heads=lambda: {name: self._head(dim, settings, rules, vectors, kind) for name, kind in domain.heads.items()},
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

    def _head(self, dim: int, settings: DomainSettings, rules: Rules, vectors: Vectors, kind: heads.Head) -> Head:
        learn = settings.learn
        options = HeadOptions(
            dim=dim,
            features=learn.features,
            neighbours=settings.memory.neighbours,
            seed=learn.seed,
            abstain_error=learn.abstain_error,
            out_of_scope=learn.out_of_scope,
            kind=kind,
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
        outcome = self.journal.late.set_aside(domain, found, found.words()).result()
        if outcome is None:
            return None
        log.warning("source %r is on hold: %s", found.source, found.words(), extra={"action": "quarantine"})
        return outcome.learned[0].seq, outcome.learned[-1].seq

    def _follow(self, domain: int, found: Change) -> None:
        """Let remembered rows follow a label that changed; in the learner's thread, behind what came meanwhile."""
        if self.journal.late.follow(domain, found, found.words()).result() is not None:
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

    def open_observers(self) -> None:
        """Build the configured observers."""
        for name, settings in self.settings.observers.items():
            kind: type[Observer] = plugins.pick(self._observer_kinds, settings.kind, f"observers.{name}.kind")
            observer: Observer = plugins.build(kind, settings.options, f"observers.{name}.options")
            served = self.domains[settings.domain]
            self.watches[name] = Watch(name, observer, served.id, served.name, served.domain, settings.newest, self.reader)

    def _ask(self, domain: str, count: int) -> dict[str, Any]:
        """Return what to ask a person about in a domain."""
        served = self.domains[domain]
        return {"items": []} if served.door.tagging is not None else served.review.items(count, None)

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


def check_reads(name: str, domain: Domain, of: str, encoder: Encoder) -> None:
    """Refuse an encoder that does not read what a domain gives it."""
    if domain.reads != encoder.reads:
        raise BadConfig(f"domains.{name}: it gives its encoder {domain.reads}, and [encoders.{of}] reads {encoder.reads}",
                        field=f"domains.{name}.encoder",
                        hint=f'make one that reads {domain.reads}, [encoders.NAME], and name it: encoder = "NAME"')
    check_tags(name, domain, of, encoder)


def _secret(connection: Connection) -> bytes:
    """Return the store's HMAC key, made once."""
    known = connection.scalar(select(t.store.c.value).where(t.store.c.key == "hmac"))
    if known is None:
        known = secrets.token_hex(32)
        connection.execute(insert(t.store).values(key="hmac", value=known))
        connection.execute(insert(t.store).values(key="created_by", value=__version__))
    return bytes.fromhex(known)
