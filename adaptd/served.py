"""One served domain: its parts, joined, and what a request does with them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, select

from adaptd import blobs, describe, registry, relearn
from adaptd import tables as t
from adaptd.adapt import Adaptation
from adaptd.admission import Admission
from adaptd.bulk import Bulk
from adaptd.counterfactual import Counterfactual
from adaptd.errors import BadPayload, Busy, Conflict, NotFound, NotReady, StoreFailed
from adaptd.forget import Forgetting
from adaptd.generation import Generation
from adaptd.heads import SHORTENED, Generate, Labels, Spans, Text, named, recorded
from adaptd.host import Room
from adaptd.ingest import Door, Rejected
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.learn import Learner
from adaptd.library import Library
from adaptd.model.decoder import Decoded
from adaptd.model.network import Head
from adaptd.predict import Answered, Inference
from adaptd.probation import Probation
from adaptd.ranking import Ranking
from adaptd.records import (
    Brief,
    Columns,
    Evidence,
    Example,
    HeadAnswer,
    Item,
    Outcome,
    Passage,
    Prediction,
    Receipt,
    Remembered,
    Written,
    canonical,
    labelled,
)
from adaptd.remembered import replies, taught
from adaptd.review import Review
from adaptd.rules import Rules
from adaptd.stages import Told, traces, unheard
from adaptd.strictjson import Unread
from adaptd.vectors import Vectors
from adaptd.versions import Versions
from adaptd.words import words

log = logging.getLogger(__name__)
WAIT_S = 60.0  # how long a request waits for a seq to be learned
EVIDENCE = 5  # neighbours that an explanation names
RANKINGS = 4  # of a domain that may wait: each holds one of the few threads beside the event loop


@dataclass(kw_only=True)
class Served:
    """A domain with its door, journal, learner and versions. Bodies and answers are the contract's."""

    name: str
    id: int
    domain: Domain
    encoder: str
    door: Door
    journal: Journal
    inference: Inference
    learner: Learner
    versions: Versions
    adaptation: Adaptation
    probation: Probation
    forgetting: Forgetting
    counterfactual: Counterfactual
    review: Review
    admission: Admission
    vectors: Vectors
    reader: Engine
    queue: int  # labels that may wait to be learned
    room: Room
    rules: Rules
    bulk: Bulk
    ranking: Ranking | None = None
    library: Library | None = None
    generation: Generation | None = None
    told: Told = unheard

    def close(self) -> None:
        """End what runs beside the daemon for this domain."""
        self.adaptation.close()
        if self.generation is not None:
            self.generation.close()

    async def predict(
        self, inputs: Sequence[Any], *, source: str, explain: bool, min_seq: int | None, newest: int, client: str
    ) -> dict[str, Any]:
        """Answer inputs and journal them as events; the input rows commit while encoding runs."""
        items, rejected = await self._through_the_door(inputs, source)
        if rejected:
            first = rejected[0]
            raise BadPayload(
                f"inputs[{first['index']}]: {first['error']['message']}",
                hint=first["error"]["hint"],
                field=f"inputs[{first['index']}]." + str(first["error"].get("field", "")),
            )
        if labelled(item for _, item in items):
            raise BadPayload("an input to predict has no label", field="label", hint="send labelled events to …/events")
        if min_seq is not None:
            await self.wait(min_seq, newest)
        with self.generation.room(len(items)) if self.generation else contextlib.nullcontext():
            return await self._answer([item for _, item in items], explain=explain, newest=newest, client=client)

    async def _answer(self, items: Sequence[Item], *, explain: bool, newest: int, client: str) -> dict[str, Any]:
        """Answer what came through the door, and journal it."""
        examples = [item.example or self.domain.example(item.payload) for item in items]
        seq = self.learner.learned_up_to(newest)
        answering = self.inference.predict(
            self.name,
            self.encoder,
            examples,
            evidence=max(EVIDENCE, self.domain.evidence) if explain else self.domain.evidence,
            client=client,
        )
        journalled = self.journal.append(self.id, items, bounded=True, lane="predictions")
        answered = await asyncio.wrap_future(answering)
        receipts = (await asyncio.wrap_future(journalled)).receipts
        self._refuse_conflicts(receipts)
        cited = await asyncio.to_thread(self._cited, answered) if self.library else self._cited(answered)
        heads = [self._heads(answer) for answer in answered]
        if self.generation:
            texts: list[Written] = await asyncio.wrap_future(
                self.generation.write(self._briefs(heads, examples), answered[0].weights if answered else None))
            heads = self._generated(heads, texts)
        predictions = [
            self._prediction(receipt, answer, found, json.loads(item.text) if item.blobs else item.payload, passages)
            for receipt, answer, found, item, passages in zip(receipts, answered, heads, items, cited, strict=True)
        ]
        # after the answer has gone out; a label for it, which comes later, finds it recorded
        asyncio.get_running_loop().call_soon(self._record, receipts, answered, predictions)
        return {
            "version": answered[0].version if answered else self.learner.state.version,
            "seq": seq,
            "predictions": [self._body(p, explain) for p in predictions],
        }

    async def rank(self, user: str, candidates: Sequence[Any], k: int | None, diversity: float) -> dict[str, Any]:
        """Order candidates for a user."""
        if self.ranking is None:
            raise BadPayload(f"the domain {self.name!r} does not rank", field="domain", hint="a domain with a `ranker` does")
        if self.ranking.waiting >= RANKINGS:
            raise Busy("too many rankings are waiting", retry_after_s=1.0)
        items, rejected = await self._through_the_door(candidates, "rank")
        if rejected:
            raise BadPayload(f"candidates[{rejected[0]['index']}]: {rejected[0]['error']['message']}",
                             hint=rejected[0]["error"]["hint"], field=f"candidates[{rejected[0]['index']}]")
        payloads = [item.payload for _, item in items]
        self.ranking.waiting += 1
        try:
            found, seq = await asyncio.to_thread(self.ranking.rank, self.door.read(user), payloads, k, diversity)
        finally:
            self.ranking.waiting -= 1
        return {"seq": seq, "ranking": [vars(one) for one in found]}

    async def events(self, raw: Sequence[Any], *, source: str) -> dict[str, Any]:
        """Journal events; return when their labels are learned."""
        self._admit()
        places, items, rejected = await self._batch(raw, source)
        outcome = (
            await asyncio.wrap_future(self.journal.append(self.id, items, bounded=True))
            if places
            else Outcome([], [], self.learner.state.seq)
        )
        if labelled(items):
            await self._until_learned(outcome)
        return self._accepted(len(places) + len(rejected), places, outcome, rejected)

    async def feedback(self, raw: Sequence[Any], *, source: str) -> dict[str, Any]:
        """Journal labels for earlier events; return when they are learned."""
        self._admit()
        given, rejected = self.door.feedback(raw, source=source)
        outcome = (
            await asyncio.wrap_future(self.journal.feedback(self.id, [one for _, one in given], bounded=True))
            if given
            else Outcome([], [], self.learner.state.seq)
        )
        await self._until_learned(outcome)
        if outcome.receipts and all(receipt.status == "unknown" for receipt in outcome.receipts) and not rejected:
            error = outcome.receipts[0].error or {}
            raise NotFound(error.get("message"), field="event", hint=error.get("hint", ""))
        return self._accepted(len(raw), [index for index, _ in given], outcome, rejected)

    async def wait(self, seq: int, newest: int) -> None:
        """Wait until `seq` is learned."""
        if seq > newest:
            raise BadPayload(
                f"seq {seq} has not been given yet; the newest is {newest}", field="min_seq", hint="use the seq of a receipt"
            )
        try:
            await asyncio.wait_for(asyncio.wrap_future(self.learner.when(seq)), WAIT_S)
        except TimeoutError:
            raise NotReady(f"seq {seq} is not learned yet", hint="learning lags; try again") from None

    def explain(self, event: str, counterfactual: bool) -> dict[str, Any]:
        """Say what answered an event, what it is labelled, what weighs in now, and which records flip that if asked."""
        with self.reader.connect() as connection:
            told = describe.event(connection, self.id, event)
        with self.reader.connect() as connection:
            example = self.domain.example(blobs.read(connection, canonical(told["payload"])))
        now = self.inference.predict(self.name, self.encoder, [example], evidence=max(EVIDENCE, self.domain.evidence)).result()[0]
        heads = [self._heads(now)]
        if self.generation:
            heads = self._generated(heads, self.generation.write(self._briefs(heads, [example]), now.weights).result())
        prediction = self._prediction(Receipt(status="duplicate", event=event), now, heads[0], told["payload"],
                                      self._cited([now])[0])
        told["now"] = self._body(prediction, explain=True) | {"version": now.version}
        if counterfactual:
            answered = {name: decoded.label for name, decoded in now.heads.items()
                        if not isinstance(self.domain.heads[name], Generate)}
            told["counterfactual"] = self.counterfactual.of(now.vector, answered)
        return told

    def search(self, text: str, k: int) -> dict[str, Any]:
        """Return the k remembered examples nearest to a text."""
        example = self.domain.example({"text": self.door.read(text)})
        found = self.inference.predict(self.name, self.encoder, [example], evidence=k).result()[0]
        results = [{"head": head, **vars(one)} for head, answer in self._heads(found).items() for one in answer.evidence]
        return {"results": results}

    def memory(self) -> dict[str, Any]:
        """Return counts per head and label, the limits, and the bytes that rows take in RAM."""
        heads = {}
        for name, head in self.learner.state.heads.items():
            counts = {label: n for label, n in zip(head.labels, head.means.counts.tolist(), strict=False) if n}
            memory, size = head.memory, head.memory.size  # once: the learner goes on meanwhile
            heads[name] = {
                "rows": sum(counts.values()),
                "labels": counts,
                **head.bounded.facts(),
                "slots": size,
                "holdout": int((memory.holdout[:size] & memory.alive[:size]).sum()) + head.bounded.gone.holdout,
                "key_dim": head.keys.dim,
                "bytes": _bytes(head),
            }
        return {"domain": self.name, "heads": heads}

    def labels(self) -> int:
        """Count the labels that are answers, of all heads; those of a set one by one."""
        return sum(_labels(head) for head in self.learner.state.heads.values())

    def memory_bytes(self) -> int:
        """Return the bytes that rows take in RAM."""
        return sum(_bytes(head) for head in self.learner.state.heads.values())

    def abstention(self) -> dict[str, Any] | None:
        """Return what share was answered and how much of it was wrong, and the limits by head; None where none is set."""
        limits = {name: head.limits.facts() for name, head in self.inference.snapshot(self.name).heads.items()}
        outcomes = self.learner.state.prequential
        return {"coverage": outcomes.coverage, "error": outcomes.error, "heads": limits} if any(limits.values()) else None

    def check_sources(self, sources: Sequence[str]) -> None:
        """Refuse the name of a source that never gave a label."""
        with self.reader.connect() as connection:
            relearn.check_sources(connection, self.id, sources)

    def scope(self, newest: int, since: int | float, sources: Sequence[str], events: Sequence[str]) -> relearn.Scope:
        """Check what a replay is asked for."""
        with self.reader.connect() as connection:
            return relearn.scope(connection, self.id, newest, since, sources, events)

    def pairs(self, head: str, rows: Sequence[int]) -> list[tuple[str, str]]:
        """Return what learned rows of a head are about, and what was taught of it, whole."""
        with self.reader.connect() as connection:
            found = taught(connection, self.domain, head, rows)
        examples = self.vectors.examples([event for event, _ in found])
        return [(examples[event].text or "", text) for event, text in found]

    def seq_of(self, version: int) -> int:
        """Return the seq that a version had learned."""
        with self.reader.connect() as connection:
            return registry.version(connection, version, self.id).seq

    # -- inside ------------------------------------------------------------------------------------------------

    async def _through_the_door(self, raw: Sequence[Any], source: str) -> tuple[list[tuple[int, Item]], list[Rejected]]:
        """Return the good elements and the rejected ones; images and sounds are looked at beside the event loop."""
        take = functools.partial(self.door.items, raw, source=source)
        return await asyncio.to_thread(take) if any(map(self.door.uploads.are_in, raw)) else take()

    async def _batch(self, raw: Sequence[Any], source: str) -> tuple[list[int], Sequence[Item] | Columns, list[Rejected]]:
        """Return the same of events that are only journalled: what the domain makes of their payloads is nobody's concern."""
        words = self.door.tagging is not None or self.door.vocabulary is not None
        plain = not words and (isinstance(raw, Unread) or not any(map(self.door.uploads.are_in, raw)))
        if plain and (through := await self.bulk.items(self.name, raw, source)) is not None:
            return through
        items, rejected = await self._through_the_door(raw, source)
        return [index for index, _ in items], [item for _, item in items], rejected

    def _admit(self) -> None:
        self.room.check()
        if self.learner.lag > self.queue:
            raise Busy("too many labels wait to be learned", retry_after_s=self.learner.rate.retry_after_s(self.learner.lag))

    async def _until_learned(self, outcome: Outcome) -> None:
        """Wait for all labels up to here, those of an earlier delivery of the same events too."""
        await asyncio.wrap_future(self.learner.when(outcome.seq))

    def _accepted(self, asked: int, indices: Sequence[int], outcome: Outcome, rejected: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the 202's body: counts, what was rejected by index, an event id per index."""
        ids: Sequence[str | None] = outcome.new or [receipt.event for receipt in outcome.receipts]
        events = dict(zip(indices, ids, strict=True))
        refused = list(rejected)
        held = sum(self.learner.was_set_aside(entry) for entry in outcome.learned)
        for index, receipt in zip(indices, outcome.receipts, strict=not outcome.new):
            held += receipt.held
            if receipt.error is not None:
                refused.append({"index": index, "error": dict(receipt.error)})
        count = Counter([receipt.status for receipt in outcome.receipts])
        return {
            "accepted": count["accepted"] + len(outcome.new),
            "duplicates": count["duplicate"],
            "held": held,
            "rejected": sorted(refused, key=lambda r: int(r["index"])),
            "events": [*map(events.get, range(asked))],
            "seq": outcome.seq,
        }

    def _refuse_conflicts(self, receipts: Sequence[Receipt]) -> None:
        for index, receipt in enumerate(receipts):
            if receipt.error is not None:
                raise Conflict(
                    f"inputs[{index}]: {receipt.error['message']}", field=f"inputs[{index}].id", hint=str(receipt.error["hint"])
                )

    def _cited(self, answered: Sequence[Answered]) -> list[list[Passage]]:
        """Return the passages of the domain's documents that are near to each event."""
        return self.library.find([one.vector for one in answered]) if self.library else [[] for _ in answered]

    def _prediction(
        self, receipt: Receipt, answer: Answered, heads: Mapping[str, HeadAnswer], payload: Mapping[str, Any],
        passages: Sequence[Passage]
    ) -> Prediction:
        assert receipt.event is not None
        cost = {"batch": answer.batch, "wait_ms": round(answer.wait_ms, 3), "work_ms": round(answer.work_ms, 3)}
        if (vocabulary := self.door.vocabulary) is not None:
            heads = dict(vocabulary.applied(heads, self._withheld))
        heads = dict(self.rules.applied(payload, heads, self._withheld))
        return Prediction(event=receipt.event, heads=heads, cost=cost, truncated=answer.truncated, passages=passages)

    def _withheld(self, head: str, confidence: float) -> str | None:
        """Say why an answer of that confidence is withheld; None: it is not."""
        return self.inference.snapshot(self.name).heads[head].limits.reason(confidence, math.inf)

    def _heads(self, answer: Answered) -> dict[str, HeadAnswer]:
        events = {n.event for decoded in answer.heads.values() for n in decoded.neighbours}
        named = self._named(events) if events else {}
        tags = self.door.tagging is not None
        return {name: self._whole(name, _head_answer(decoded, named, tags=tags), decoded)
                for name, decoded in ((name, self._keyed(name, decoded)) for name, decoded in answer.heads.items())}

    def _keyed(self, name: str, decoded: Decoded) -> Decoded:
        """Give the neighbours of a head that generates the keys of their texts: as learned they are all of one class."""
        if not isinstance(self.domain.heads[name], Generate):
            return decoded
        query = select(t.learned.c.id, t.learned.c.target).where(t.learned.c.id.in_([n.row for n in decoded.neighbours]))
        with self.reader.connect() as connection:
            keys = {r.id: r.target for r in connection.execute(query)}  # one that is being forgotten has none
        found = [replace(n, label=keys[n.row], taught=keys[n.row]) for n in decoded.neighbours if n.row in keys]
        return replace(decoded, label=None, confidence=0.0, scores={}, neighbours=found, voices=())

    def _briefs(self, heads: Sequence[Mapping[str, HeadAnswer]], examples: Sequence[Example]) -> list[Brief]:
        """Return what the generator is to write, with the examples that are near."""
        [name] = [name for name, head in self.domain.heads.items() if isinstance(head, Generate)]
        return [Brief(text=example.text or "", remembered=[
            Remembered(text=one.text, reply=found[name].whole(one.label), similarity=one.similarity)
            for one in found[name].evidence if one.text is not None]) for found, example in zip(heads, examples, strict=True)]

    def _generated(self, heads: Sequence[Mapping[str, HeadAnswer]], texts: Sequence[Written]) -> list[dict[str, HeadAnswer]]:
        """Return the heads' answers with what was written."""
        [name] = [name for name, head in self.domain.heads.items() if isinstance(head, Generate)]
        return [{**found, name: replace(found[name], label=one.text, confidence=one.confidence, reason=one.reason)}
                for found, one in zip(heads, texts, strict=True)]

    def _whole(self, name: str, answer: HeadAnswer, decoded: Decoded) -> HeadAnswer:
        """Add the replies that are longer than their keys."""
        if not isinstance(self.domain.heads[name], Text):
            return answer
        keys = {n.label for n in decoded.neighbours} | {answer.label or ""}
        if not any(map(SHORTENED.search, keys)):
            return answer
        events = {n.event for n in decoded.neighbours} | self.inference.snapshot(self.name).heads[name].events_of(answer.label)
        with self.reader.connect() as connection:
            return replace(answer, replies=replies(connection, self.domain, name, keys, events))

    def _named(self, events: set[int]) -> dict[int, tuple[str, str | None]]:
        """Return id and text of events, for people."""
        query = select(t.event.c.seq, t.event.c.id, t.event.c.payload).where(
            t.event.c.seq.in_(events), t.event.c.source != t.FORGOTTEN
        )
        with self.reader.connect() as connection:
            rows = connection.execute(query).all()
            return {r.seq: (r.id, self._text(connection, r.payload)) for r in rows}

    def _text(self, connection: Connection, payload: str) -> str | None:
        """Return a stored payload's text; an image is not decoded for the words beside it."""
        if self.domain.reads in ("image", "audio"):
            return text if isinstance(text := json.loads(payload).get("text"), str) else None
        return self.domain.example(blobs.read(connection, payload)).text

    def _record(self, receipts: Sequence[Receipt], answered: Sequence[Answered], predictions: Sequence[Prediction]) -> None:
        """Store answers and vectors; nobody waits for it, and the writer keeps the order."""
        began, now = time.monotonic(), time.time()
        rows: list[Mapping[str, Any]] = []
        vectors: list[tuple[int, int, bytes]] = []
        for receipt, answer, prediction in zip(receipts, answered, predictions, strict=True):
            assert receipt.event_seq is not None
            labels = {name: None if head.instead_of else recorded(head.label) for name, head in prediction.heads.items()}
            rows.append(
                {
                    "event": receipt.event_seq,
                    "version": answer.version,
                    "learned": answer.seq,
                    "labels": canonical(labels),
                    "confidence": prediction.confidence,
                    "at": now,
                }
            )
            vectors += self.vectors.keep(receipt.event_seq, answer.vector)
            for upper, tuned in answer.tuned.values():
                self.vectors.keep_tuned(receipt.event_seq, upper, tuned[0])
        try:
            self.journal.record(self.vectors.encoder_id, rows, vectors)
        except StoreFailed as error:  # the answer is out; the daemon is about to stop
            log.error("answers were not recorded: %s", error, extra={"action": "record_failed", "domain": self.name})
        self.told("record", began, traces.get(), [row["event"] for row in rows])

    def _body(self, prediction: Prediction, explain: bool) -> dict[str, Any]:
        """Return one element of the answer; the domain may add to it. What is only for its eyes is not shown by itself."""
        several = len(prediction.heads) > 1
        heads = {name: _head_body(answer if explain else replace(answer, evidence=(), voices=()))
                 for name, answer in prediction.heads.items()}
        body: dict[str, Any] = {
            "event": prediction.event,
            "label": prediction.label,
            "confidence": prediction.confidence,
            "cost": dict(prediction.cost),
        }
        body |= (
            {"scores": {name: head["scores"] for name, head in heads.items()}, "heads": heads}
            if several
            else next(iter(heads.values()))
        )
        if prediction.truncated:
            body["truncated"] = True
        if prediction.passages:
            body["passages"] = [vars(one) for one in prediction.passages]
        return {**body, **self.domain.render(prediction)}


def _labels(head: Head) -> int:
    targets = [target for target, count in zip(head.labels, head.means.counts.tolist(), strict=False) if count]
    if isinstance(head.options.kind, Spans):
        return len({target[2:] for target in targets} - {""})
    return len({name for target in targets for name in named(target)}) if isinstance(head.options.kind, Labels) else len(targets)


def _bytes(head: Head) -> int:
    return head.memory.size * (2 * head.options.dim + 2 * head.keys.dim) + int(head.bounded.gone.rows.nbytes)


def _marked(text: str | None, word: int) -> str | None:
    """Mark the word of a text that was remembered."""
    places = words(text or "")
    if text is None or word >= len(places):
        return text
    start, end = places[word]
    return f"{text[:start]}[{text[start:end]}]{text[end:]}"


def _head_answer(decoded: Decoded, named: Mapping[int, tuple[str, str | None]], *, tags: bool) -> HeadAnswer:
    evidence = [
        Evidence(
            event=named[n.event][0],
            label=n.label,
            taught=n.taught,
            weight=n.weight,
            similarity=n.similarity,
            source=n.source,
            text=_marked(named[n.event][1], n.part) if tags else named[n.event][1],
        )
        for n in decoded.neighbours
        if n.event in named
    ]
    return HeadAnswer(
        label=decoded.label,
        withheld=decoded.withheld,
        confidence=decoded.confidence,
        scores=decoded.scores,
        reason=decoded.reason,
        evidence=evidence,
        voices=decoded.voices,
    )


def _head_body(answer: HeadAnswer) -> dict[str, Any]:
    body: dict[str, Any] = {"label": answer.label, "confidence": answer.confidence, "scores": dict(answer.scores)}
    if answer.reason is not None:
        body["reason"] = answer.reason
    if answer.withheld:
        body["withheld"] = list(answer.withheld)
    if answer.evidence:
        body["evidence"] = [vars(one) for one in answer.evidence]
    if answer.path:
        body["path"] = list(answer.path)
    if answer.instead_of is not None:
        body["instead_of"] = answer.instead_of
    if answer.replies:
        body["replies"] = dict(answer.replies)
    if answer.voices:
        body["experts"] = [vars(one) for one in answer.voices]
    if answer.rules:
        body["rules"] = [{name: value for name, value in vars(one).items() if value is not None} for one in answer.rules]
    return body
