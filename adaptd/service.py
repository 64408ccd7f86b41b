"""The daemon's operations (`adaptd.api.operations`) over its served domains, and what it says about itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, select

from adaptd import backup, chain, deadletters, describe, incumbent, registry
from adaptd import tables as t
from adaptd import tokens as kept
from adaptd.adapt import ON_DEMAND
from adaptd.alerts import OUTCOMES, Alerts
from adaptd.db import Writer
from adaptd.errors import BadPayload, Conflict, NotFound, NotReady, StoreFailed, UnknownDomain
from adaptd.follow import Follower
from adaptd.grants import Keyring, Token
from adaptd.health import Health
from adaptd.history import act
from adaptd.host import Room
from adaptd.meters import Meters
from adaptd.observe import Counts, Problems, quarantined
from adaptd.paths import Paths
from adaptd.predict import Inference
from adaptd.publish import Publisher
from adaptd.selector import Selector
from adaptd.served import Served
from adaptd.watch import Watch

log = logging.getLogger(__name__)
Json = dict[str, Any]
T = TypeVar("T")
DECISIONS = ("promote", "reject", "undecided", "failed", "cancelled")
LISTENERS = 100  # events that a slow listener of the stream may lag behind


class Service:
    """Implements `Operations`."""

    def __init__(
        self,
        domains: Mapping[str, Served],
        followers: Mapping[str, Follower],
        publishers: Mapping[str, Publisher],
        writer: Writer,
        reader: Engine,
        inference: Inference,
        problems: Problems,
        meters: Meters,
        paths: Paths,
        keyring: Keyring,
        health: Health,
        room: Room,
        alerts: Alerts,
    ) -> None:
        self.domains = domains
        self.followers = followers
        self.publishers = publishers
        for publisher in publishers.values():
            publisher.wrong = self.wrong_now
        self.problems = problems
        self.listening: list[str] = []
        self.state = "starting"
        self._writer = writer
        self._reader = reader
        self._inference = inference
        self._meters = meters
        self._paths = paths
        self._keyring = keyring
        self._health = health
        self._room = room
        self.alerts = alerts
        self.watches: Mapping[str, Watch] = {}
        self._backing_up = threading.Lock()
        self._started = time.monotonic()
        for post, outcome in product(alerts.posts, OUTCOMES):
            meters.alerts.labels(post.name, outcome)
        self._listeners: set[asyncio.Queue[Json]] = set()
        self._counts = Counts(reader, domains)
        for name, served in domains.items():
            for decision in DECISIONS:
                meters.verdicts.labels(name, decision)  # a rate wants a beginning
            served.adaptation.on_phase = partial(meters.phase, name)
            served.adaptation.on_trained = partial(meters.trained, name)
            served.adaptation.on_over = partial(self._adapted, name)

    def ready(self) -> bool:
        """Say whether every champion has answered its probe."""
        return self.state == "running" and self._writer.failed is None

    def _served(self, domain: str) -> Served:
        if self._writer.failed is not None:
            raise StoreFailed(hint="the daemon is stopping; look at its log")
        if domain not in self.domains:
            raise UnknownDomain(f"there is no domain {domain!r}", field="domain", hint=f"known: {', '.join(self.domains)}")
        if self.state != "running":
            raise NotReady(f"the daemon is {self.state}")
        return self.domains[domain]

    def tell(self, event: str, domain: str, **facts: Any) -> None:
        """Tell the listeners of the stream; one that is too slow misses this."""
        for listener in tuple(self._listeners):
            if not listener.full():
                listener.put_nowait({"event": event, "domain": domain, "at": time.time(), **facts})

    async def subscribe(self) -> AsyncIterator[Json]:
        """Yield what happens from now on."""
        listener: asyncio.Queue[Json] = asyncio.Queue(LISTENERS)
        self._listeners.add(listener)
        try:
            while True:
                yield await listener.get()
        finally:
            self._listeners.discard(listener)

    # -- the stages --------------------------------------------------------------------------------------------

    def expect(self, domain: str, actor: str) -> None:
        """Refuse inputs before they are read when not even one could wait."""
        served = self._served(domain)
        served.inference.expect(served.name, actor)

    async def predict(self, domain: str, inputs: Sequence[Any], *, source: str, explain: bool, min_seq: int | None,
                      actor: str) -> Json:
        """Answer inputs and journal them."""
        served = self._served(domain)
        with self._meters.time("predict", domain):
            answer = await served.predict(inputs, source=source, explain=explain, min_seq=min_seq, newest=self._writer.last_seq,
                                          client=actor)
        self._meters.predictions.labels(domain).inc(len(inputs))
        return answer

    async def events(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        """Journal events; labels are learned when it returns."""
        with self._meters.time("events", domain):
            done = await self._served(domain).events(items, source=source)
        self._after_ingest(domain, done)
        return done

    async def feedback(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        """Journal late labels; learned when it returns."""
        with self._meters.time("feedback", domain):
            done = await self._served(domain).feedback(items, source=source)
        self._after_ingest(domain, done)
        return done

    def _after_ingest(self, domain: str, done: Json) -> None:
        for what in ("accepted", "duplicates", "held"):
            self._meters.ingested.labels(domain, what).inc(done[what])
        self._meters.ingested.labels(domain, "rejected").inc(len(done["rejected"]))
        self.tell("ingested", domain, accepted=done["accepted"], seq=done["seq"])

    async def adapt(self, domain: str, *, wait: bool, actor: str, consolidate: bool = False, weak: bool = False,
                    pseudo: bool = False) -> Json:
        """Start an adaptation, a consolidation or a trial of weak labels; wait for its verdict if asked."""
        served = self._served(domain)
        if consolidate and (weak or pseudo):
            raise BadPayload("a consolidation and a trial are two things", field="consolidate", hint="ask for each")
        running = (served.admission.start(actor, pseudo=pseudo) if weak or pseudo else
                   served.adaptation.start(ON_DEMAND, actor, consolidate=consolidate))
        if not wait:
            return {"verdict": None, "version": served.learner.state.version, "reasons": ["the adaptation has started"]}
        outcome = await asyncio.shield(asyncio.wrap_future(running))  # who stops waiting does not stop the adaptation
        self.tell("verdict", domain, **outcome.body())
        return outcome.body()

    async def cancel(self, domain: str, *, reason: str, actor: str) -> Json:
        """End the adaptation that runs or is paused."""
        words = await asyncio.to_thread(self._served(domain).adaptation.cancel, reason, actor)
        self.tell("cancelled", domain, reason=words)
        return {"cancelled": words}

    def _adapted(self, domain: str, last: Mapping[str, Any]) -> None:
        self._meters.verdicts.labels(domain, last["verdict"]).inc()
        self.alerts.verdict(domain, last)

    async def snapshot(self, domain: str, *, reason: str, actor: str) -> Json:
        """Name the live state as a version."""
        number = await asyncio.to_thread(self._served(domain).versions.snapshot, reason, actor)
        self.tell("snapshot", domain, version=number)
        return {"version": number}

    async def versions(self, domain: str) -> Json:
        """List a domain's versions."""
        served = self._served(domain)

        def read() -> Json:
            with self._reader.connect() as connection:
                live = registry.live(connection, served.id)
                return {
                    "live": live.version,
                    "versions": [describe.brief(v, live.version) for v in registry.versions(connection, served.id)],
                }

        return await asyncio.to_thread(read)

    async def version(self, domain: str, number: int) -> Json:
        """Return one version in full."""
        return await asyncio.to_thread(self._read, describe.version, self._served(domain).id, number)

    async def exported(self, domain: str, number: int, *, to: str, actor: str) -> Json:
        """Note where a version is exported to."""
        served = self._served(domain)
        await asyncio.wrap_future(self._writer.submit(lambda c: registry.note_export(c, served.id, number, to, actor)))
        return {"version": number}

    async def difference(self, domain: str, one: int, other: int) -> Json:
        """Return what one version has more and less than another."""
        return await asyncio.to_thread(self._read, describe.difference, self._served(domain).id, one, other)

    def _read(self, query: Callable[..., T], *about: int) -> T:
        with self._reader.connect() as connection:
            return query(connection, *about)

    async def rollback(
        self,
        domain: str,
        *,
        to: int | None,
        at: float | None,
        reason: str,
        actor: str,
        and_replay: bool,
        except_sources: Sequence[str],
    ) -> Json:
        """Move the pointer to an earlier version or to a moment; learn again what came since, if asked."""
        served = self._served(domain)
        except_sources = [served.door.named(source) for source in except_sources]
        await asyncio.to_thread(served.check_sources, except_sources)  # before anything is moved
        number, saved = await asyncio.to_thread(served.versions.rollback, to, reason, actor, at)
        self.tell("rollback", domain, version=number, saved=saved)
        answer = {"version": number, "saved": saved}
        if not and_replay:
            return answer
        for source in except_sources:
            await asyncio.wrap_future(served.journal.late.hold(served.id, "learning", source, reason, actor))
        since = await asyncio.to_thread(served.seq_of, number)
        return answer | await self.replay(
            domain, since=since, except_sources=except_sources, except_events=(), reason=reason, actor=actor
        )

    async def replay(
        self,
        domain: str,
        *,
        since: int | float,
        except_sources: Sequence[str],
        except_events: Sequence[str],
        reason: str,
        actor: str,
    ) -> Json:
        """Learn again what the live lineage lacks; learned when it returns."""
        served = self._served(domain)
        except_sources = [served.door.named(source) for source in except_sources]
        scope = await asyncio.to_thread(served.scope, self._writer.last_seq, since, except_sources, except_events)
        relearned, skipped = await asyncio.to_thread(served.versions.replay, scope, reason, actor)
        await asyncio.wrap_future(served.learner.when(self._writer.last_seq))
        self.tell("replay", domain, relearned=relearned, skipped=skipped)
        return {"relearned": relearned, "skipped": skipped}

    async def promote(self, domain: str, *, to: int, force: bool, reason: str, actor: str) -> Json:
        """Make a candidate live."""
        number = await asyncio.to_thread(self._served(domain).versions.promote, to, force, reason, actor)
        self.tell("promote", domain, version=number)
        return {"version": number}

    async def forget(self, domain: str, *, selector: Json, reason: str, actor: str) -> Json:
        """Forget events and their influence; return the certificate."""
        served = self._served(domain)
        wanted = Selector.of(selector).named(served.door.named)
        certificate = await asyncio.to_thread(served.forgetting.forget, wanted, reason, actor)
        self._counts.renew(domain)
        self.tell("forget", domain, events=certificate["removed"]["event"])
        return certificate

    async def switch(self, domain: str, *, back: bool, reason: str, actor: str) -> Json:
        """Say that clients use adaptd's answers, or the incumbent's again; return the two side by side."""
        served = self._served(domain)
        state = served.learner.state
        evidence = incumbent.shown(state.incumbent, None)
        number = state.version
        await asyncio.wrap_future(
            self._writer.submit(
                lambda c: incumbent.switch(c, served.id, self._writer.last_seq, number, back, reason, actor, evidence)
            )
        )
        self._counts.renew(domain)
        self.tell("switch", domain, version=incumbent.NUMBER if back else number)
        return {"version": incumbent.NUMBER if back else number, "incumbent": evidence}

    async def hold(self, domain: str, *, what: str, source: str, reason: str, actor: str) -> Json:
        """Put learning or adaptation on hold."""
        served = self._served(domain)
        source = served.door.named(source)
        await asyncio.wrap_future(served.journal.late.hold(served.id, what, source, reason, actor))
        if what == "adaptation":
            served.adaptation.hold()
        return {"held": what, "source": source}

    async def resume(self, domain: str, *, what: str, source: str, reason: str, actor: str, drop: bool) -> Json:
        """Lift a hold and learn what waited; or drop it."""
        served = self._served(domain)
        source = served.door.named(source)
        if drop:
            dropped = await asyncio.to_thread(served.versions.drop, source, reason, actor)
            return {"resumed": what, "source": source, "learned": 0, "dropped": dropped}
        learned = await asyncio.to_thread(served.versions.resume, what, source, reason, actor)
        if what == "adaptation":
            served.adaptation.resume()
        await asyncio.wrap_future(served.learner.when(self._writer.last_seq))
        return {"resumed": what, "source": source, "learned": learned}

    async def history(self, domain: str | None, *, limit: int) -> Json:
        """Return the newest actions."""
        query = select(t.action, t.domain.c.name).outerjoin(t.domain, t.domain.c.id == t.action.c.domain)
        if domain is not None:
            query = query.where(t.action.c.domain == self._served(domain).id)

        def read() -> Json:
            with self._reader.connect() as connection:
                found = connection.execute(query.order_by(t.action.c.id.desc()).limit(limit)).all()
            return {
                "actions": [
                    {
                        "at": r.at,
                        "seq": r.seq,
                        "domain": r.name,
                        "what": r.what,
                        "before": r.before,
                        "after": r.after,
                        "actor": r.actor,
                        "reason": r.reason,
                        "detail": json.loads(r.detail),
                    }
                    for r in found
                ]
            }

        return await asyncio.to_thread(read)

    async def memory(self, domain: str) -> Json:
        """Return what is in memory."""
        return self._served(domain).memory()

    async def search(self, domain: str, *, text: str, k: int) -> Json:
        """Return the nearest remembered examples."""
        return await asyncio.to_thread(self._served(domain).search, text, k)

    async def explain(self, domain: str, event: str, *, counterfactual: bool) -> Json:
        """Explain an event's answers."""
        return await asyncio.to_thread(self._served(domain).explain, event, counterfactual)

    async def review(self, domain: str, *, n: int | None, minutes: float | None) -> Json:
        """Return what to ask a person about."""
        return await asyncio.to_thread(self._served(domain).review.items, n, minutes)

    async def review_report(self, domain: str) -> Json:
        """Return what review's labels were good for."""
        return await asyncio.to_thread(self._served(domain).review.report)

    async def feeds(self) -> Json:
        """Return the feeds' state."""
        return {"feeds": self._feeds()}

    async def feed(self, name: str, *, paused: bool, actor: str) -> Mapping[str, Any]:
        """Pause or resume a feed."""
        await self._follower(name).pause(paused, actor)
        return self._feeds()[name]

    def expect_hook(self, name: str, *, headers: Mapping[str, str]) -> None:
        """Refuse what is sent to no feed, or whose headers alone show that who sends may not."""
        if name not in self.followers:
            raise NotFound("there is no such feed")  # who asks is nobody yet, and is told no names
        self.followers[name].expect(headers)

    async def outputs(self) -> Json:
        """Return the outputs' state."""
        return {"outputs": await asyncio.to_thread(self._outputs)}

    async def output(self, name: str, *, paused: bool, actor: str) -> Json:
        """Pause or resume an output."""
        if name not in self.publishers:
            known = ", ".join(self.publishers) or "none"
            raise UnknownDomain(f"there is no output {name!r}", field="name", hint=f"known: {known}")
        await self.publishers[name].pause(paused, actor)
        return self.publishers[name].status()

    def _outputs(self) -> dict[str, Json]:
        return {name: one.status() for name, one in self.publishers.items()}

    async def hook(self, name: str, *, headers: Mapping[str, str], body: bytes) -> Json:
        """Take in what was sent to a feed."""
        self._go_on()
        return {"id": await self.followers[name].deliver(headers, body)}

    def _feeds(self) -> dict[str, Json]:
        dead = self._read(deadletters.counts)
        return {name: {**one.status(), "dead": dead.get(name, 0)} for name, one in self.followers.items()}

    async def dead(self, name: str, *, after: int, limit: int) -> Json:
        """Return what a feed gave and was not taken, also one that is not followed any more."""

        def read() -> Json:
            with self._reader.connect() as connection:
                total = deadletters.counts(connection).get(name, 0)
                return {"feed": name, "total": total, "dead": deadletters.page(connection, name, after=after, limit=limit)}

        return await asyncio.to_thread(read)

    async def retry_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        """Let dead letters through the door again."""
        self._go_on()
        return await self._follower(name).retry(ids, actor)

    async def drop_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        """Let dead letters go."""
        self._go_on()

        def write(connection: Connection) -> int:
            dropped = deadletters.drop(connection, name, ids)
            act(connection, self._writer.last_seq, None, "feed-drop", actor, name, detail={"dropped": dropped})
            return dropped

        return {"dropped": await asyncio.wrap_future(self._writer.submit(write))}

    def _follower(self, name: str) -> Follower:
        if name not in self.followers:
            raise UnknownDomain(f"there is no feed {name!r}", field="name", hint=f"known: {', '.join(self.followers) or 'none'}")
        return self.followers[name]

    async def backup(self, *, file: str, force: bool, actor: str) -> Json:
        """Write a backup beside everything else; one at a time."""
        self._go_on()
        if not self._backing_up.acquire(blocking=False):
            raise Conflict("a backup is being written already", hint="try again when it is done")
        try:
            done = await asyncio.to_thread(backup.write, self._paths, Path(file), force=force, go_on=self._go_on)
        finally:
            self._backing_up.release()
        await asyncio.wrap_future(self._writer.submit(lambda c: backup.note(c, done, actor)))
        log.info("backup %s, asked for by %s", file, actor, extra={"action": "backup"})
        return done

    async def tokens(self) -> Json:
        """Return all tokens."""
        used = self._keyring.used()
        return {"tokens": await asyncio.to_thread(self._read, lambda connection: kept.listed(connection, used))}

    async def create_token(self, name: str, *, roles: Sequence[str], domains: Sequence[str] | None, source: str | None,
                           expires: float | None, actor: str) -> Json:
        """Make a token; it is valid when this returns."""
        token, made = await self._changed(lambda c: kept.create(c, self._writer.last_seq, actor, name, roles=roles,
                                                                domains=domains, source=source, expires=expires))
        return {"token": token, **made}

    async def revoke_token(self, name: str, *, reason: str, actor: str) -> Json:
        """End a token; it opens nothing when this returns."""
        return await self._changed(lambda c: kept.revoke(c, self._writer.last_seq, actor, name, reason))

    async def _changed(self, change: Callable[[Connection], T]) -> T:
        """Change the table of tokens; the ring knows it behind the commit and before anybody is answered."""
        def run(connection: Connection) -> tuple[T, list[Token]]:
            done = change(connection)
            return done, kept.all_of(connection)

        done, _ = await asyncio.wrap_future(self._writer.submit(run, after=lambda both: self._keyring.hold(both[1])))
        return done

    def _go_on(self) -> None:
        if not self.ready():
            raise NotReady(f"the daemon is {self.state}")

    async def rank(self, domain: str, *, user: str, candidates: Sequence[Any], k: int | None, diversity: float) -> Json:
        """Order candidates for a user."""
        return await self._served(domain).rank(user, candidates, k, diversity)

    async def observed(self, domain: str) -> Json:
        """Return what the observers of a domain say of its newest events."""
        served = self._served(domain)
        mine = {name: watch for name, watch in self.watches.items() if watch.domain == served.name}
        return {"observers": {name: await asyncio.to_thread(watch.figures) for name, watch in mine.items()}}

    # -- what it says of itself --------------------------------------------------------------------------------

    def status(self) -> Json:
        """Return the contract's status document."""
        return {
            "state": self.state,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "domains": {name: self._domain_status(served) for name, served in self.domains.items()},
            "seq": self._writer.last_seq,
            "chain": self._read(chain.head).shown(),
            "listening": list(self.listening),
            "feeds": self._feeds(),
            "outputs": self._outputs(),
            "problems": self.wrong_now(),
        }

    def wrong_now(self) -> list[Json]:
        """Return what was reported lately, and what is wrong for as long as it is."""
        lasting = [
            *[one for follower in self.followers.values() for one in follower.problems()],
            *[one for publisher in self.publishers.values() for one in publisher.problems()],
            *self.alerts.problems(),
            *[one for watch in self.watches.values() for one in watch.problems()],
        ]
        return [
            *self.problems.now(),
            *[one for served in self.domains.values() for one in quarantined(served)],
            *[vars(one) for one in lasting],
        ]

    def look_for_alerts(self) -> None:
        """Tell the alert sinks what is wrong now, and what is over."""
        self.alerts.look(self.wrong_now())

    def _domain_status(self, served: Served) -> Json:
        state, counts = served.learner.state, self._counts.of(served.name)
        evaluated = counts["metrics"].get("holdout") or {}
        memory = [head.bounded.facts() for head in state.heads.values()]
        promoted = (counts["verdict"] or {}).get("decision") == "promote"
        return {
            "version": state.version,
            "parent": counts["parent"],
            "promoted_at": counts["since"],
            "labels": served.labels(),
            "events": counts["events"],
            "labelled": counts["labelled"],
            **{name: sum(one[key] for one in memory) for name, key in (("memory", "retrievable"), ("evicted", "evicted"))},
            "capacity": sum(one["capacity"] for one in memory),
            "memory_bytes": served.memory_bytes(),
            "accuracy": {
                "prequential": state.prequential.accuracy,
                "holdout": evaluated.get("candidate" if promoted else "champion"),
                "progressive": state.progressive.accuracy,
            },
            "heads": counts["heads"],
            "calibration": state.prequential.calibration.figures(),
            "abstention": served.abstention(),
            "documents": served.library.facts() if served.library else None,
            "answered_and_labelled": state.prequential.total,
            "forgetting": counts["forgetting"],
            "drift": {"detected": state.prequential.drifts},
            "adapting": served.adaptation.children.stage,
            "last_verdict": served.adaptation.last or counts["verdict"],
            "next_adaptation": served.adaptation.triggers.facts(served.adaptation.settings),
            "next_consolidation": served.adaptation.consolidating,
            "learn_lag": served.learner.lag,
            "unsolved": served.learner.unsolved,
            "incumbent": incumbent.shown(state.incumbent, counts["switched"]),
            "probation": served.probation.status(),
            "weak": counts["weak"],
            "held": sorted(served.journal.late.holds(served.id)),
            "adaptation_held": served.adaptation.held,
        }

    def health(self) -> Json:
        """Return every part's state and the age of its heartbeat."""
        return {"state": self.state, "parts": self._health.parts()}

    def metrics(self) -> bytes:
        """Return the Prometheus exposition."""
        database = self._paths.database
        files = [file for file in (database, database.with_name(f"{database.name}-wal")) if file.exists()]
        queues = {
            "journal": self._writer.waiting,
            "inference": self._inference.waiting,
            "encoding": self._inference.waiting_labels,
            "alerts": self.alerts.waiting,
            "learning": sum(served.learner.lag for served in self.domains.values()),
        }
        return self._meters.exposition({
            **self.status(),
            "parts": self._health.parts(),
            "queues": queues,
            "disk_free": self._room.free,
            "store_size": sum(file.stat().st_size for file in files),
        })

