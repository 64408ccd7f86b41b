"""One served domain: its parts, joined, and what a request does with them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select

from adaptd import describe, registry, relearn
from adaptd import tables as t
from adaptd.adapt import Adaptation
from adaptd.counterfactual import Counterfactual
from adaptd.errors import BadPayload, Busy, Conflict, NotFound, NotReady, StoreFailed
from adaptd.forget import Forgetting
from adaptd.host import Room
from adaptd.ingest import Door
from adaptd.interfaces import Domain
from adaptd.journal import Journal, Outcome
from adaptd.learn import Learner
from adaptd.model.decoder import Decoded
from adaptd.model.network import Head
from adaptd.predict import Answered, Inference
from adaptd.probation import Probation
from adaptd.records import MISSING, Evidence, HeadAnswer, Prediction, Receipt, canonical
from adaptd.review import Review
from adaptd.stages import Told, traces, unheard
from adaptd.vectors import Vectors
from adaptd.versions import Versions

log = logging.getLogger(__name__)
WAIT_S = 60.0  # how long a request waits for a seq to be learned
EVIDENCE = 5  # neighbours that an explanation names


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
    vectors: Vectors
    reader: Engine
    queue: int  # labels that may wait to be learned
    room: Room
    told: Told = unheard

    async def predict(
        self, inputs: Sequence[Any], *, source: str, explain: bool, min_seq: int | None, newest: int, client: str
    ) -> dict[str, Any]:
        """Answer inputs and journal them as events; the input rows commit while encoding runs."""
        items, rejected = self.door.items(inputs, source=source)
        if rejected:
            first = rejected[0]
            raise BadPayload(
                f"inputs[{first['index']}]: {first['error']['message']}",
                hint=first["error"]["hint"],
                field=f"inputs[{first['index']}]." + str(first["error"].get("field", "")),
            )
        if any(item.label is not MISSING for _, item in items):
            raise BadPayload("an input to predict has no label", field="label", hint="send labelled events to …/events")
        if min_seq is not None:
            await self.wait(min_seq, newest)
        seq = self.learner.learned_up_to(newest)
        answering = self.inference.predict(
            self.name,
            self.encoder,
            [self.domain.example(item.payload) for _, item in items],
            evidence=EVIDENCE if explain else 0,
            client=client,
        )
        journalled = self.journal.append(self.id, [item for _, item in items], bounded=True, lane="predictions")
        answered = await asyncio.wrap_future(answering)
        receipts = (await asyncio.wrap_future(journalled)).receipts
        self._refuse_conflicts(receipts)
        predictions = [self._prediction(receipt, answer) for receipt, answer in zip(receipts, answered, strict=True)]
        # after the answer has gone out; a label for it, which comes later, finds it recorded
        asyncio.get_running_loop().call_soon(self._record, receipts, answered, predictions)
        return {
            "version": answered[0].version if answered else self.learner.state.version,
            "seq": seq,
            "predictions": [self._body(p) for p in predictions],
        }

    async def events(self, raw: Sequence[Any], *, source: str) -> dict[str, Any]:
        """Journal events; return when their labels are learned."""
        self._admit()
        items, rejected = self.door.items(raw, source=source)
        outcome = (
            await asyncio.wrap_future(self.journal.append(self.id, [item for _, item in items], bounded=True))
            if items
            else Outcome([], [], self.learner.state.seq)
        )
        if any(item.label is not MISSING for _, item in items):
            await self._until_learned(outcome)
        return self._accepted(len(raw), [index for index, _ in items], outcome, rejected)

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
        example = self.domain.example(told["payload"])
        now = self.inference.predict(self.name, self.encoder, [example], evidence=EVIDENCE).result()[0]
        told["now"] = self._body(self._prediction(Receipt(status="duplicate", event=event), now)) | {"version": now.version}
        if counterfactual:
            answered = {name: decoded.label for name, decoded in now.heads.items()}
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

    def seq_of(self, version: int) -> int:
        """Return the seq that a version had learned."""
        with self.reader.connect() as connection:
            return registry.version(connection, version, self.id).seq

    # -- inside ------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        self.room.check()
        if self.learner.lag > self.queue:
            raise Busy("too many labels wait to be learned", retry_after_s=self.learner.rate.retry_after_s(self.learner.lag))

    async def _until_learned(self, outcome: Outcome) -> None:
        """Wait for all labels up to here, those of an earlier delivery of the same events too."""
        await asyncio.wrap_future(self.learner.when(outcome.seq))

    def _accepted(self, asked: int, indices: Sequence[int], outcome: Outcome, rejected: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the 202's body: counts, what was rejected by index, an event id per index."""
        events: list[str | None] = [None] * asked
        refused = list(rejected)
        for index, receipt in zip(indices, outcome.receipts, strict=True):
            events[index] = receipt.event
            if receipt.error is not None:
                refused.append({"index": index, "error": dict(receipt.error)})
        count = {status: sum(r.status == status for r in outcome.receipts) for status in ("accepted", "duplicate")}
        return {
            "accepted": count["accepted"],
            "duplicates": count["duplicate"],
            "held": sum(r.held for r in outcome.receipts) + sum(self.learner.was_set_aside(entry) for entry in outcome.learned),
            "rejected": sorted(refused, key=lambda r: int(r["index"])),
            "events": events,
            "seq": outcome.seq,
        }

    def _refuse_conflicts(self, receipts: Sequence[Receipt]) -> None:
        for index, receipt in enumerate(receipts):
            if receipt.error is not None:
                raise Conflict(
                    f"inputs[{index}]: {receipt.error['message']}", field=f"inputs[{index}].id", hint=str(receipt.error["hint"])
                )

    def _prediction(self, receipt: Receipt, answer: Answered) -> Prediction:
        assert receipt.event is not None
        cost = {"batch": answer.batch, "wait_ms": round(answer.wait_ms, 3), "work_ms": round(answer.work_ms, 3)}
        return Prediction(event=receipt.event, heads=self._heads(answer), cost=cost, truncated=answer.truncated)

    def _heads(self, answer: Answered) -> dict[str, HeadAnswer]:
        events = {n.event for decoded in answer.heads.values() for n in decoded.neighbours}
        named = self._named(events) if events else {}
        return {name: _head_answer(decoded, named) for name, decoded in answer.heads.items()}

    def _named(self, events: set[int]) -> dict[int, tuple[str, str | None]]:
        """Return id and text of events, for people."""
        query = select(t.event.c.seq, t.event.c.id, t.event.c.payload).where(
            t.event.c.seq.in_(events), t.event.c.source != t.FORGOTTEN
        )
        with self.reader.connect() as connection:
            return {r.seq: (r.id, self.domain.example(json.loads(r.payload)).text) for r in connection.execute(query)}

    def _record(self, receipts: Sequence[Receipt], answered: Sequence[Answered], predictions: Sequence[Prediction]) -> None:
        """Store answers and vectors; nobody waits for it, and the writer keeps the order."""
        began, now = time.monotonic(), time.time()
        rows: list[Mapping[str, Any]] = []
        vectors = []
        for receipt, answer, prediction in zip(receipts, answered, predictions, strict=True):
            assert receipt.event_seq is not None
            labels = {name: head.label for name, head in prediction.heads.items()}
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
            self.vectors.keep(receipt.event_seq, answer.vector)
            vectors.append((receipt.event_seq, 0, answer.vector.numpy().tobytes()))
        try:
            self.journal.record(self.vectors.encoder_id, rows, vectors)
        except StoreFailed as error:  # the answer is out; the daemon is about to stop
            log.error("answers were not recorded: %s", error, extra={"action": "record_failed", "domain": self.name})
        self.told("record", began, traces.get(), [row["event"] for row in rows])

    def _body(self, prediction: Prediction) -> dict[str, Any]:
        """Return one element of the answer; the domain may add to it."""
        several = len(prediction.heads) > 1
        heads = {name: _head_body(answer) for name, answer in prediction.heads.items()}
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
        return {**body, **self.domain.render(prediction)}


def _bytes(head: Head) -> int:
    return head.memory.size * (2 * head.options.dim + 2 * head.keys.dim) + int(head.bounded.gone.rows.nbytes)


def _head_answer(decoded: Decoded, named: Mapping[int, tuple[str, str | None]]) -> HeadAnswer:
    evidence = [
        Evidence(
            event=named[n.event][0],
            label=n.label,
            taught=n.taught,
            weight=n.weight,
            similarity=n.similarity,
            source=n.source,
            text=named[n.event][1],
        )
        for n in decoded.neighbours
        if n.event in named
    ]
    return HeadAnswer(
        label=decoded.label,
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
    if answer.evidence:
        body["evidence"] = [vars(one) for one in answer.evidence]
    if answer.voices:
        body["experts"] = [vars(one) for one in answer.voices]
    return body
