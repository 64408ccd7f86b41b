"""Traces for OpenTelemetry, by option: from a request over its stages to what it taught.

A request's span begins where the client's ended (W3C `traceparent`). Each stage that was told with the request's trace is a
child of it, also in another thread; one that served several requests at once is a child of each. What is learned links to the
request that the event was answered in. Imported only where `[traces]` names an endpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

from adaptd import __version__
from adaptd.config import TraceSettings
from adaptd.errors import MissingExtra
from adaptd.records import Report
from adaptd.stages import Told, Traces, traces

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtra(f"traces need opentelemetry: {error}", hint="pip install 'adaptd[otel]'") from None

log = logging.getLogger(__name__)
DELAY_MS, TIMEOUT_S = 1000, 5.0  # between two exports; of one
CLOSE_S = 2.0  # that a stop waits for the last ones
AGAIN_S = 60.0  # between two words about what is not taken
REMEMBERED = 10_000  # events whose answers what is learned later links to


class Tracer:
    """Makes spans and sends them, in a thread of its own; what it cannot send is lost, and a problem."""

    def __init__(self, settings: TraceSettings, report: Report) -> None:
        exporter = _Reported(OTLPSpanExporter(settings.endpoint, headers=settings.headers, timeout=TIMEOUT_S),
                             urlsplit(settings.endpoint).hostname or "its endpoint", report)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.share)), shutdown_on_exit=False,
            resource=Resource.create({"service.name": "adaptd", "service.version": __version__}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=DELAY_MS))
        self._tracer = self._provider.get_tracer("adaptd", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._answered: OrderedDict[int, SpanContext] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Callable[[str, int], None]]:
        """Trace what is done meanwhile; call what is given with the route and the status."""
        parent = self._propagator.extract({name: headers[name] for name in ("traceparent", "tracestate") if name in headers})
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, {"http.request.method": method})
        token = traces.set((span,) if span.is_recording() else ())

        def answered(route: str, status: int) -> None:
            _answered(span, method, route, status)

        try:
            yield answered
        finally:
            traces.reset(token)
            span.end()

    def told(self, then: Told) -> Told:
        """Return what makes a span of a stage that is over, and tells `then`."""

        def told(stage: str, began: float, traces: Traces = (), events: Sequence[int] = ()) -> None:
            then(stage, began, traces, events)
            if traces:
                try:
                    self._stage(stage, began, cast(Sequence[Span], traces), events)
                except Exception:  # in the writer's thread, too: a span is worth no journal
                    log.exception("no span of %s", stage)

        return told

    def _stage(self, stage: str, began: float, parents: Sequence[Span], events: Sequence[int]) -> None:
        end = time.time_ns()
        start = end - int((time.monotonic() - began) * 1e9)
        links = self._links(events) if stage == "learn" else []
        for parent in parents:
            context = set_span_in_context(parent, Context())
            span = self._tracer.start_span(stage, context, links=links, start_time=start, attributes={"requests": len(parents)})
            if stage == "record":
                self._remember(events, span.get_span_context())
            span.end(end)

    def _remember(self, events: Sequence[int], answered: SpanContext) -> None:
        with self._lock:
            self._answered |= dict.fromkeys(events, answered)
            while len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)

    def _links(self, events: Sequence[int]) -> list[Link]:
        """Return links to the requests that events were answered in."""
        with self._lock:
            found = {self._answered[event].span_id: self._answered[event] for event in events if event in self._answered}
        return [Link(context) for context in found.values()]

    def close(self) -> None:
        """Send what waits; a receiver that does not answer is not waited for long: the thread ends with the process."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(CLOSE_S)


def _answered(span: Span, method: str, route: str, status: int) -> None:
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


class _Reported(SpanExporter):
    """Another exporter, whose failures are a problem instead of a line in the log for each batch."""

    def __init__(self, exporter: SpanExporter, host: str, report: Report) -> None:
        self._exporter = exporter
        self._host = host  # the rest of the endpoint may hold a secret
        self._report = report
        self._said = -AGAIN_S
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        done = self._exporter.export(spans)
        if done is not SpanExportResult.SUCCESS and time.monotonic() - self._said >= AGAIN_S:
            self._said = time.monotonic()
            self._report("traces_lost", f"traces are not taken by {self._host}",
                         "mend [traces] endpoint, or start what listens there; nothing else waits for it")
        return done

    def shutdown(self) -> None:
        self._exporter.shutdown()
