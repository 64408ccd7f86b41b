"""Traces: what is said of a receiver that does not take them."""

from __future__ import annotations

from typing import Any

import pytest

tracing = pytest.importorskip("adaptd.tracing")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: E402

from adaptd.config import TraceSettings  # noqa: E402


class Refuses:
    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


def test_spans_that_are_not_taken_are_a_problem_without_the_endpoint_s_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user, a path and a query may each be one."""
    monkeypatch.setattr(tracing, "OTLPSpanExporter", Refuses)
    told: list[str] = []
    endpoint = "https://me:hunter2@traces.example.org/v1/T1?key=K1"
    tracer = tracing.Tracer(TraceSettings(endpoint=endpoint), lambda *words: told.extend(words))
    with tracer.request("POST", {}) as answered:
        answered("/v1/{domain}/predict", 200)
    tracer.close()
    assert told[:2] == ["traces_lost", "traces are not taken by traces.example.org"]
    assert not any(secret in " ".join(told) for secret in ("hunter2", "T1", "K1"))
