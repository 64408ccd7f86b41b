"""The route table, and what each route does: one call of the daemon's operations."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from adaptd.api import openapi
from adaptd.api import replies as a
from adaptd.api import requests as r
from adaptd.api.bodies import Batch, check_count
from adaptd.api.claims import check_events, check_feedback, check_inputs, speaker
from adaptd.api.endpoint import ANY, Call, Endpoint
from adaptd.api.errors import Unprocessable, failure, reply
from adaptd.api.guard import SOCKET
from adaptd.api.operations import Json
from adaptd.api.stream import server_sent
from adaptd.errors import Forbidden, NotFound, NotReady
from adaptd.health import STALLED


def expect_inputs(call: Call) -> None:
    """Look at a prediction before its body is read: under a flood most are refused, and reading them would cost the others."""
    call.operations.expect(call.domain, call.actor)


async def predict(call: Call) -> Json:
    """Answer inputs; each becomes an event."""
    check_count(len(call.body.inputs), call.limits, "inputs")
    check_inputs(call.grant, call.body.inputs, explain=call.body.explain)
    return await call.operations.predict(call.domain, call.body.inputs, source=speaker(call.grant), explain=call.body.explain,
                                         min_seq=call.body.min_seq, actor=call.actor)


async def events(call: Call) -> Response:
    """Journal events and learn their labels; 202 means durable."""
    check_events(call.grant, call.body.items)
    return await _ingest(call.body, functools.partial(call.operations.events, call.domain, source=speaker(call.grant)))


async def feedback(call: Call) -> Response:
    """Journal labels for earlier events and learn them; 202 means durable."""
    check_feedback(call.grant, call.body.items)
    return await _ingest(call.body, functools.partial(call.operations.feedback, call.domain, source=speaker(call.grant)))


async def _ingest(batch: Batch, operation: Callable[..., Awaitable[Json]]) -> Response:
    nothing: Json = {"accepted": 0, "duplicates": 0, "held": 0, "rejected": [], "events": [], "seq": None}
    answer = batch.merge(await operation(batch.items) if batch.items else nothing)
    if answer["accepted"] or answer["duplicates"]:
        return reply(answer, 202)
    return failure(_none_acceptable(answer["rejected"]), answer)


def _none_acceptable(rejected: list[Mapping[str, Any]]) -> Unprocessable:
    if not rejected:
        return Unprocessable("nothing was accepted")
    first = rejected[0]["error"]
    return Unprocessable(f"none of {len(rejected)} elements is acceptable; the first: {first['message']}",
                         field=first.get("field"), hint=first["hint"])


async def adapt(call: Call) -> Json:
    """Train a candidate and let the gate judge it."""
    asked = call.body
    return await call.operations.adapt(call.domain, wait=asked.wait, consolidate=asked.consolidate, weak=asked.weak,
                                       pseudo=asked.pseudo, actor=call.actor)


async def cancel(call: Call) -> Json:
    """End the adaptation that runs or is paused; the champion stays."""
    return await call.operations.cancel(call.domain, reason=call.body.reason, actor=call.actor)


async def snapshot(call: Call) -> Json:
    """Name the live state as a version."""
    return await call.operations.snapshot(call.domain, reason=call.body.reason, actor=call.actor)


async def rollback(call: Call) -> Json:
    """Go back to a version or a moment; what was live is saved first, and learning is on hold until resume."""
    return await call.operations.rollback(call.domain, to=call.body.to, at=call.body.at, reason=call.body.reason,
                                          actor=call.actor, and_replay=call.body.and_replay,
                                          except_sources=call.body.except_sources)


async def replay(call: Call) -> Json:
    """Learn again what came since but is not in the live state; exceptions stay in the journal, unlearned."""
    return await call.operations.replay(call.domain, since=call.body.since, except_sources=call.body.except_sources,
                                        except_events=call.body.except_events, reason=call.body.reason, actor=call.actor)


async def promote(call: Call) -> Json:
    """Make a candidate live."""
    return await call.operations.promote(call.domain, to=call.body.to, force=call.body.force, reason=call.body.reason,
                                         actor=call.actor)


async def switch(call: Call) -> Json:
    """Say that clients use adaptd's answers from now on: the comparison with the incumbent ends."""
    return await call.operations.switch(call.domain, back=call.body.back, reason=call.body.reason, actor=call.actor)


async def forget(call: Call) -> Json:
    """Forget events and their influence; a certificate says what was removed and how it was checked."""
    selector = call.body.model_dump(exclude={"reason"}, exclude_none=True)
    return await call.operations.forget(call.domain, selector=selector, reason=call.body.reason, actor=call.actor)


async def hold(call: Call) -> Json:
    """Stop learning or adaptation; journal and answers go on."""
    return await call.operations.hold(call.domain, what=call.body.what, source=call.body.source,
                                      reason=call.body.reason, actor=call.actor)


async def resume(call: Call) -> Json:
    """Lift a hold and learn what waited, or drop it."""
    return await call.operations.resume(call.domain, what=call.body.what, source=call.body.source,
                                        reason=call.body.reason, actor=call.actor, drop=call.body.drop)


async def versions(call: Call) -> Json:
    """List a domain's versions."""
    return await call.operations.versions(call.domain)


async def version(call: Call) -> Json:
    """Show a version in full."""
    return await call.operations.version(call.domain, _number(call, "number"))


async def exported(call: Call) -> Json:
    """Note where a version is being exported to: a forget names the copies that may hold what it removes."""
    return await call.operations.exported(call.domain, _number(call, "number"), to=call.body.to, actor=call.actor)


async def difference(call: Call) -> Json:
    """Say what the second of two versions has more and less than the first."""
    return await call.operations.difference(call.domain, _number(call, "number"), _number(call, "other"))


def _number(call: Call, name: str) -> int:
    text = call.path[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Unprocessable(f"{text[:40]!r} is no version's number", field=name, hint="GET /v1/{domain}/versions lists them")
    return int(text)


async def memory(call: Call) -> Json:
    """Say what is remembered: counts, index and bytes."""
    return await call.operations.memory(call.domain)


async def search(call: Call) -> Json:
    """Find the remembered examples nearest to a text."""
    if len(call.body.text) > call.limits.characters:
        raise Unprocessable(f"{len(call.body.text)} characters; the limit is {call.limits.characters}", field="text",
                            hint="send less, or raise limits.characters")
    return await call.operations.search(call.domain, text=call.body.text, k=call.body.k)


async def explain(call: Call) -> Json:
    """Say what answered an event, and why."""
    return await call.operations.explain(call.domain, call.path["event"], counterfactual=call.query.counterfactual)


async def review(call: Call) -> Json:
    """Choose the unlabelled events whose labels are expected to prevent most errors; the answers come as feedback."""
    return await call.operations.review(call.domain, n=call.query.n, minutes=call.query.minutes)


async def review_report(call: Call) -> Json:
    """Say how many labels review brought, how many answers they corrected, and how many errors they prevented since."""
    return await call.operations.review_report(call.domain)


async def status(call: Call) -> Json:
    """Say what is live, how good it is, what goes on and what is wrong."""
    return await asyncio.to_thread(call.operations.status)  # it reads the store: answers do not wait for it


async def history(call: Call) -> Json:
    """Say who changed what, when and why, newest first."""
    return await call.operations.history(call.query.domain, limit=call.query.limit)


async def rank(call: Call) -> Json:
    """Order candidates for a user."""
    body = call.body
    return await call.operations.rank(call.domain, user=body.user, candidates=body.candidates, k=body.k, diversity=body.diversity)


async def observed(call: Call) -> Json:
    """Say what the observers of a domain see."""
    return await call.operations.observed(call.domain)


async def feeds(call: Call) -> Json:
    """Say how the feeds do."""
    return await call.operations.feeds()


async def pause_feed(call: Call) -> Json:
    """Pause a feed."""
    return dict(await call.operations.feed(call.path["name"], paused=True, actor=call.actor))


async def resume_feed(call: Call) -> Json:
    """Let a feed go on."""
    return dict(await call.operations.feed(call.path["name"], paused=False, actor=call.actor))


def expect_hook(call: Call) -> None:
    """Refuse what leads to no feed or is not signed at all: whoever sends is nobody yet, and may send much."""
    call.operations.expect_hook(call.path["name"], headers=call.headers)


async def outputs(call: Call) -> Json:
    """Say how the outputs do."""
    return await call.operations.outputs()


async def pause_output(call: Call) -> Json:
    """Pause an output; what it would send waits in the store."""
    return dict(await call.operations.output(call.path["name"], paused=True, actor=call.actor))


async def resume_output(call: Call) -> Json:
    """Let an output go on from its place."""
    return dict(await call.operations.output(call.path["name"], paused=False, actor=call.actor))


async def hook(call: Call) -> Json:
    """Take in what is sent to a feed of kind webhook; signed, and answered when it is committed."""
    return await call.operations.hook(call.path["name"], headers=call.headers, body=call.body)


async def dead(call: Call) -> Json:
    """Say what a feed gave and was not taken, and why."""
    return await call.operations.dead(call.path["name"], after=call.query.after, limit=call.query.limit)


async def retry_dead(call: Call) -> Json:
    """Try again what a feed gave and was not taken; what is taken now leaves the list in the same transaction."""
    return await call.operations.retry_dead(call.path["name"], ids=call.body.chosen(), actor=call.actor)


async def drop_dead(call: Call) -> Json:
    """Let go of what a feed gave and was not taken."""
    return await call.operations.drop_dead(call.path["name"], ids=call.body.chosen(), actor=call.actor)


async def tokens(call: Call) -> Json:
    """List the tokens: what they allow, whether they are valid, when they were last used."""
    return await call.operations.tokens()


async def create_token(call: Call) -> Json:
    """Make a token; it is in this answer and nowhere else."""
    body = call.body
    return await call.operations.create_token(body.name, roles=body.roles, domains=body.domains, source=body.source,
                                              expires=body.expires, actor=call.actor)


async def revoke_token(call: Call) -> Json:
    """End a token, at once."""
    return await call.operations.revoke_token(call.path["name"], reason=call.body.reason, actor=call.actor)


async def backup(call: Call) -> Json:
    """Write a verified backup of the whole store into a file of this host; over the unix socket only."""
    if call.actor != SOCKET:
        raise Forbidden("a network client does not name files of this host", hint="use the unix socket: adaptd backup FILE")
    return await call.operations.backup(file=call.body.file, force=call.body.force, actor=call.actor)


async def healthz(call: Call) -> Json:
    """Say that the process answers."""
    return {"ok": True}


async def health(call: Call) -> Response:
    """Say how each part does; 503 when one of them is stuck."""
    found = call.operations.health()
    return reply(found, 503 if any(part["state"] == STALLED for part in found["parts"].values()) else 200)


async def ping(call: Call) -> Response:
    """Say how one part does; 503 when it is stuck."""
    parts, name = call.operations.health()["parts"], call.path["part"]
    if name not in parts:
        raise NotFound(f"there is no part {name!r}", field="part", hint=f"known: {', '.join(parts)}")
    return reply(parts[name], 503 if parts[name]["state"] == STALLED else 200)


async def readyz(call: Call) -> Json:
    """Say that every champion has answered; 503 until then."""
    if not call.operations.ready():
        raise NotReady("not every champion has answered yet", hint="GET /v1/status says what it waits for")
    return {"ready": True}


async def metrics(call: Call) -> Response:
    """Give the figures to Prometheus."""
    text = await asyncio.to_thread(call.operations.metrics)  # it counts rows: answers do not wait for it
    return Response(text, media_type=f"{PROMETHEUS}; version=0.0.4; charset=utf-8")


async def stream(call: Call) -> Response:
    """Send what happens, as server-sent events."""
    events = server_sent(call.operations.subscribe(), call.closing, call.still_allowed)
    return StreamingResponse(events, media_type=SSE, headers={"cache-control": "no-store"})


async def describe(call: Call) -> Json:
    """Describe this interface."""
    return openapi.document(ENDPOINTS)


PROMETHEUS, SSE = "text/plain", "text/event-stream"
DOMAIN, STREAM = "/v1/{domain}", "/v1/stream"
PREDICT, INGEST, LABEL, OPERATE, ADMIN = ("predict",), ("ingest", "label"), ("label",), ("operate",), ("admin",)
READ = ("label", "operate")  # what shows texts that others have sent
ENDPOINTS = (
    Endpoint(method="POST", path=f"{DOMAIN}/predict", handler=predict, roles=PREDICT, request=r.Predict, answer=a.Predictions,
             before=expect_inputs),
    Endpoint(method="POST", path=f"{DOMAIN}/events", handler=events, roles=INGEST, request=r.Event, batch=True,
             answer=a.Ingested, success=202),
    Endpoint(method="POST", path=f"{DOMAIN}/feedback", handler=feedback, roles=LABEL, request=r.Feedback, batch=True,
             answer=a.Ingested, success=202),
    Endpoint(method="POST", path=f"{DOMAIN}/adapt", handler=adapt, roles=OPERATE, request=r.Adapt, may_be_empty=True,
             answer=a.Adapted),
    Endpoint(method="POST", path=f"{DOMAIN}/adapt/cancel", handler=cancel, roles=OPERATE, request=r.Cancel, may_be_empty=True,
             answer=a.Cancelled),
    Endpoint(method="POST", path=f"{DOMAIN}/snapshot", handler=snapshot, roles=OPERATE, request=r.Snapshot, may_be_empty=True,
             answer=a.VersionNumber),
    Endpoint(method="POST", path=f"{DOMAIN}/rollback", handler=rollback, roles=OPERATE, request=r.Rollback, may_be_empty=True,
             answer=a.RolledBack),
    Endpoint(method="POST", path=f"{DOMAIN}/replay", handler=replay, roles=OPERATE, request=r.Replay, answer=a.Replayed),
    Endpoint(method="POST", path=f"{DOMAIN}/promote", handler=promote, roles=OPERATE, request=r.Promote, answer=a.VersionNumber),
    Endpoint(method="POST", path=f"{DOMAIN}/switch", handler=switch, roles=OPERATE, request=r.Switch, may_be_empty=True,
             answer=a.Switched),
    Endpoint(method="POST", path=f"{DOMAIN}/forget", handler=forget, roles=ADMIN, request=r.Forget, answer=a.Certificate),
    Endpoint(method="POST", path=f"{DOMAIN}/hold", handler=hold, roles=OPERATE, request=r.Hold, may_be_empty=True,
             answer=a.Answer),
    Endpoint(method="POST", path=f"{DOMAIN}/resume", handler=resume, roles=OPERATE, request=r.Resume, may_be_empty=True,
             answer=a.Resumed),
    Endpoint(method="GET", path=f"{DOMAIN}/versions", handler=versions, roles=OPERATE, answer=a.Versions),
    Endpoint(method="GET", path=f"{DOMAIN}/versions/{{number}}", handler=version, roles=OPERATE, answer=a.VersionNumber),
    Endpoint(method="POST", path=f"{DOMAIN}/versions/{{number}}/exported", handler=exported, roles=OPERATE, request=r.Exported,
             answer=a.VersionNumber),
    Endpoint(method="GET", path=f"{DOMAIN}/versions/{{number}}/diff/{{other}}", handler=difference, roles=OPERATE,
             answer=a.Difference),
    Endpoint(method="GET", path=f"{DOMAIN}/memory", handler=memory, roles=READ, answer=a.Answer),
    Endpoint(method="POST", path=f"{DOMAIN}/memory/search", handler=search, roles=READ, request=r.Search, answer=a.Found),
    Endpoint(method="GET", path=f"{DOMAIN}/explain/{{event}}", handler=explain, roles=READ, query=r.ExplainQuery,
             answer=a.Explained),
    Endpoint(method="GET", path=f"{DOMAIN}/review", handler=review, roles=READ, query=r.ReviewQuery, answer=a.ToReview),
    Endpoint(method="GET", path=f"{DOMAIN}/review/report", handler=review_report, roles=READ, answer=a.ReviewReport),
    Endpoint(method="POST", path=f"{DOMAIN}/rank", handler=rank, roles=PREDICT, request=r.Rank, answer=a.Ranking),
    Endpoint(method="GET", path=f"{DOMAIN}/observed", handler=observed, roles=READ, answer=a.Sightings),
    Endpoint(method="GET", path="/v1/status", handler=status, roles=ANY, whole=True, answer=a.Status),
    Endpoint(method="GET", path="/v1/health", handler=health, roles=ANY, whole=True, answer=a.Health),
    Endpoint(method="GET", path="/v1/health/{part}", handler=ping, roles=ANY, whole=True, answer=a.Part),
    Endpoint(method="GET", path="/v1/history", handler=history, roles=OPERATE, whole=True, query=r.HistoryQuery,
             answer=a.History),
    Endpoint(method="GET", path="/v1/feeds", handler=feeds, roles=OPERATE, whole=True, answer=a.Feeds),
    Endpoint(method="POST", path="/v1/feeds/{name}/pause", handler=pause_feed, roles=OPERATE, whole=True, request=r.Nothing,
             may_be_empty=True, answer=a.Answer),
    Endpoint(method="POST", path="/v1/feeds/{name}/resume", handler=resume_feed, roles=OPERATE, whole=True, request=r.Nothing,
             may_be_empty=True, answer=a.Answer),
    Endpoint(method="GET", path="/v1/outputs", handler=outputs, roles=OPERATE, whole=True, answer=a.Outputs),
    Endpoint(method="POST", path="/v1/outputs/{name}/pause", handler=pause_output, roles=OPERATE, whole=True, request=r.Nothing,
             may_be_empty=True, answer=a.Answer),
    Endpoint(method="POST", path="/v1/outputs/{name}/resume", handler=resume_output, roles=OPERATE, whole=True,
             request=r.Nothing, may_be_empty=True, answer=a.Answer),
    Endpoint(method="POST", path=openapi.SIGNED, handler=hook, roles=ANY, raw=True, query=None, answer=a.Delivered, success=202,
             before=expect_hook,
             headers=("X-Hub-Signature-256", "X-GitHub-Delivery", "webhook-id", "webhook-timestamp", "webhook-signature")),
    Endpoint(method="GET", path="/v1/feeds/{name}/dead", handler=dead, roles=OPERATE, whole=True, query=r.DeadQuery,
             answer=a.Dead),
    Endpoint(method="POST", path="/v1/feeds/{name}/dead/retry", handler=retry_dead, roles=OPERATE, whole=True,
             request=r.DeadIds, answer=a.Retried),
    Endpoint(method="POST", path="/v1/feeds/{name}/dead/drop", handler=drop_dead, roles=OPERATE, whole=True, request=r.DeadIds,
             answer=a.Dropped),
    Endpoint(method="GET", path="/v1/tokens", handler=tokens, roles=ADMIN, whole=True, answer=a.Tokens),
    Endpoint(method="POST", path="/v1/tokens", handler=create_token, roles=ADMIN, whole=True, request=r.NewToken,
             answer=a.MadeToken, success=201),
    Endpoint(method="POST", path="/v1/tokens/{name}/revoke", handler=revoke_token, roles=ADMIN, whole=True,
             request=r.RevokeToken, may_be_empty=True, answer=a.TokenShown),
    Endpoint(method="POST", path="/v1/backup", handler=backup, roles=ADMIN, whole=True, request=r.Backup, answer=a.BackedUp),
    Endpoint(method="GET", path=STREAM, handler=stream, roles=OPERATE, whole=True, answer=SSE),
    Endpoint(method="GET", path="/healthz", handler=healthz, roles=ANY, query=None, answer=a.Alive),
    Endpoint(method="GET", path="/readyz", handler=readyz, roles=ANY, query=None, answer=a.Ready),
    Endpoint(method="GET", path="/metrics", handler=metrics, roles=ANY, whole=True, query=None, answer=PROMETHEUS),
    Endpoint(method="GET", path="/openapi.json", handler=describe, roles=ANY, query=None, answer=a.Answer),
)
