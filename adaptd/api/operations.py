"""What the HTTP layer is given: the daemon's operations, as one protocol. Bodies and answers are the contract's.

Every method may raise an `AdaptdError`; the HTTP boundary turns it into the error object and its status.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

Json = dict[str, Any]


class Operations(Protocol):
    """Implemented by `adaptd.daemon.Daemon`; tests of the HTTP layer give a double."""

    def ready(self) -> bool:
        """Say whether the champion of every domain has answered a probe."""
        ...

    def status(self) -> Json:
        """Return the contract's status document."""
        ...

    def health(self) -> Json:
        """Return {"state": …, "parts": {name: {state, age_s}}}."""
        ...

    def metrics(self) -> bytes:
        """Return the Prometheus exposition."""
        ...

    def subscribe(self) -> AsyncIterator[Json]:
        """Yield what happens: {"event": name, "domain": …, "at": …, …}."""
        ...

    def expect(self, domain: str, actor: str) -> None:
        """Raise Busy where not even one input of this actor could wait: asked before the body is read."""
        ...

    async def predict(self, domain: str, inputs: Sequence[Any], *, source: str, explain: bool,
                      min_seq: int | None, actor: str) -> Json:
        """Answer inputs (raw JSON objects); journal them as events. Actors take turns."""
        ...

    async def events(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        """Journal events (raw JSON objects): good ones accepted and learned, bad ones reported by index."""
        ...

    async def feedback(self, domain: str, items: Sequence[Any], *, source: str) -> Json:
        """Journal labels for earlier events; learned when it returns. Raises NotFound when all are unknown."""
        ...

    async def adapt(self, domain: str, *, wait: bool, actor: str, consolidate: bool = False, weak: bool = False,
                    pseudo: bool = False) -> Json:
        """Start an adaptation, or a consolidation; with `wait`, return verdict, version and reasons."""
        ...

    async def cancel(self, domain: str, *, reason: str, actor: str) -> Json:
        """End the adaptation that runs or is paused. Raises Conflict when there is none."""
        ...

    async def snapshot(self, domain: str, *, reason: str, actor: str) -> Json:
        """Name the live state as a version, without adaptation."""
        ...

    async def versions(self, domain: str) -> Json:
        """List the versions of a domain."""
        ...

    async def version(self, domain: str, number: int) -> Json:
        """Return one version in full."""
        ...

    async def difference(self, domain: str, one: int, other: int) -> Json:
        """Return what one version has more and less than another: labels, rows, figures."""
        ...

    async def rollback(self, domain: str, *, to: int | None, at: float | None, reason: str, actor: str,
                       and_replay: bool, except_sources: Sequence[str]) -> Json:
        """Move the pointer to an earlier version or to a moment; what was live is saved first.

        With `and_replay` hold `except_sources` and learn again what the others taught since.
        """
        ...

    async def replay(self, domain: str, *, since: int | float, except_sources: Sequence[str], except_events: Sequence[str],
                     reason: str, actor: str) -> Json:
        """Learn again what the live lineage lacks; returns {"relearned": n, "skipped": m}."""
        ...

    async def promote(self, domain: str, *, to: int, force: bool, reason: str, actor: str) -> Json:
        """Make a candidate live. Raises Refused when its gate did and `force` is not given."""
        ...

    async def exported(self, domain: str, number: int, *, to: str, actor: str) -> Json:
        """Note where a version is exported to."""
        ...

    async def switch(self, domain: str, *, back: bool, reason: str, actor: str) -> Json:
        """Note that clients use adaptd's answers, or the incumbent's again. Raises Conflict when they do so already."""
        ...

    async def forget(self, domain: str, *, selector: Json, reason: str, actor: str) -> Json:
        """Forget events (`selector`: event, source, subject, label or since) and their influence; the certificate."""
        ...

    async def hold(self, domain: str, *, what: str, source: str, reason: str, actor: str) -> Json:
        """Put learning or adaptation on hold; `source` "" means all."""
        ...

    async def resume(self, domain: str, *, what: str, source: str, reason: str, actor: str, drop: bool) -> Json:
        """Lift a hold; returns {"learned": n}: the labels that had waited."""
        ...

    async def history(self, domain: str | None, *, limit: int) -> Json:
        """Return {"actions": […]}, newest first."""
        ...

    async def memory(self, domain: str) -> Json:
        """Return counts per head and label, index and bytes."""
        ...

    async def search(self, domain: str, *, text: str, k: int) -> Json:
        """Return the k remembered examples nearest to a text, {"results": […]}."""
        ...

    async def explain(self, domain: str, event: str, *, counterfactual: bool) -> Json:
        """Return what answered an event, which remembered examples weigh in now, and which of them flip the answer."""
        ...

    async def review(self, domain: str, *, n: int | None, minutes: float | None) -> Json:
        """Return {"items": […]}: the unlabelled events whose labels are expected to prevent most errors."""
        ...

    async def review_report(self, domain: str) -> Json:
        """Return what review's labels were and what they did to later answers."""
        ...

    async def backup(self, *, file: str, force: bool, actor: str) -> Json:
        """Write a verified backup of the store into a file; return what it holds."""
        ...

    async def tokens(self) -> Json:
        """Return {"tokens": […]}, oldest first; what is shown of one is not enough to come in with."""
        ...

    async def create_token(self, name: str, *, roles: Sequence[str], domains: Sequence[str] | None, source: str | None,
                           expires: float | None, actor: str) -> Json:
        """Make a token; return it, this once, with what it allows."""
        ...

    async def revoke_token(self, name: str, *, reason: str, actor: str) -> Json:
        """End a token; it opens nothing any more when this returns."""
        ...

    async def rank(self, domain: str, *, user: str, candidates: Sequence[Any], k: int | None, diversity: float) -> Json:
        """Return {"seq": s, "ranking": [{id, score, why}]}: candidates in the order in which a user may like them."""
        ...

    async def observed(self, domain: str) -> Json:
        """Return {"observers": {name: figures}} of a domain."""
        ...

    async def feeds(self) -> Json:
        """Return {"feeds": {name: {state, offset, lag, errors, dead}}}."""
        ...

    async def feed(self, name: str, *, paused: bool, actor: str) -> Mapping[str, Any]:
        """Pause or resume a feed."""
        ...

    def expect_hook(self, name: str, *, headers: Mapping[str, str]) -> None:
        """Refuse what is sent to no feed, or whose headers alone show that who sends may not."""
        ...

    async def outputs(self) -> Json:
        """Return {"outputs": {name: {state, offset, lag, errors, sent}}}."""
        ...

    async def output(self, name: str, *, paused: bool, actor: str) -> Mapping[str, Any]:
        """Pause or resume an output."""
        ...

    async def hook(self, name: str, *, headers: Mapping[str, str], body: bytes) -> Json:
        """Take in what was sent to a feed, when it is signed; return {"id"} when it is committed."""
        ...

    async def dead(self, name: str, *, after: int, limit: int) -> Json:
        """Return {"feed", "total", "dead": [{id, at, reason, raw}]}, what a feed gave and was not taken, behind an id."""
        ...

    async def retry_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        """Let dead letters (None: all) through the door again; returns {"taken": n, "left": [ids]}."""
        ...

    async def drop_dead(self, name: str, *, ids: Sequence[int] | None, actor: str) -> Json:
        """Let dead letters (None: all) go; returns {"dropped": n}."""
        ...
