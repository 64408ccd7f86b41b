"""The Prometheus metrics, by its naming rules. What happens is counted where it happens; what is, is read at a scrape.

`docs/observability.md` lists them, `configs/grafana-dashboard.json` and `configs/alerts.yml` use them; tests hold all to this.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from adaptd import __version__
from adaptd.errors import AdaptdError
from adaptd.stages import STAGES, Traces

Json = Mapping[str, Any]
REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
STAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ADAPTATION_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
WELL = frozenset({"ok", "running", "paused"})  # states of a part that nobody need look at


@dataclass(frozen=True)
class Gauge:
    """A figure that is read at a scrape: its name, what it means, and where it stands; None is not exported."""

    name: str
    help: str
    read: Callable[[Any], float | None]


DOMAIN = (  # of a domain's part of the status document
    Gauge("adaptd_live_version", "The live version's number.", lambda d: d["version"]),
    Gauge("adaptd_live_version_timestamp_seconds", "When the live version went live.", lambda d: d["promoted_at"]),
    Gauge("adaptd_events", "Events in the journal.", lambda d: d["events"]),
    Gauge("adaptd_labelled_events", "Events with a label.", lambda d: d["labelled"]),
    Gauge("adaptd_labels", "Labels that can be answered.", lambda d: d["labels"]),
    Gauge("adaptd_learn_lag_entries", "Journal entries not learned yet.", lambda d: d["learn_lag"]),
    Gauge("adaptd_unsolved_rows", "Learned rows that the answering ridge does not hold yet.", lambda d: d["unsolved"]),
    Gauge("adaptd_memory_rows", "Learned rows that are retrievable.", lambda d: d["memory"]),
    Gauge("adaptd_memory_evicted_rows", "Learned rows that memory has evicted.", lambda d: d["evicted"]),
    Gauge("adaptd_memory_capacity_rows", "Rows that memory may hold; 0 is no limit.", lambda d: d["capacity"]),
    Gauge("adaptd_memory_bytes", "Bytes that rows take in RAM.", lambda d: d["memory_bytes"]),
    Gauge("adaptd_prequential_accuracy_ratio", "Accuracy of recent answers.", lambda d: d["accuracy"]["prequential"]),
    Gauge("adaptd_progressive_accuracy_ratio", "Accuracy of what would have been answered to recent labels.",
          lambda d: d["accuracy"]["progressive"]),
    Gauge("adaptd_holdout_accuracy_ratio", "Accuracy on held-out labels, at the newest evaluation.",
          lambda d: d["accuracy"]["holdout"]),
    Gauge("adaptd_calibration_error_ratio", "Expected calibration error of recent answers.",
          lambda d: d["calibration"] and d["calibration"]["ece"]),
    Gauge("adaptd_forgetting_ratio", "Mean loss of accuracy by class since its best evaluation.", lambda d: d["forgetting"]),
    Gauge("adaptd_coverage_ratio", "Share of recent inputs that got an answer; where abstaining is on.",
          lambda d: d["abstention"] and d["abstention"]["coverage"]),
    Gauge("adaptd_drifts", "Changes of the error rate, over the live state's history.", lambda d: d["drift"]["detected"]),
    Gauge("adaptd_held_sources", "Sources whose learning is on hold; all of them count as one.", lambda d: len(d["held"])),
    Gauge("adaptd_adaptation_held", "Whether adaptation is on hold.", lambda d: d["adaptation_held"]),
    Gauge("adaptd_adapting", "Whether an adaptation runs.", lambda d: d["adapting"] is not None),
    Gauge("adaptd_probation", "Whether the live version is on probation.", lambda d: d["probation"] is not None),
)
FEED = (  # of a feed's part of it
    Gauge("adaptd_feed_running", "Whether the feed is followed: not paused, not failing.", lambda f: f["state"] == "running"),
    Gauge("adaptd_feed_lag", "What the source holds that was not read: messages, of files bytes.", lambda f: f["lag"]),
    Gauge("adaptd_feed_errors_total", "Failures and items that were not taken, since the start.", lambda f: f["errors"]),
    Gauge("adaptd_feed_dead_letters", "Items that were not taken and are kept.", lambda f: f["dead"]),
)
OUTPUT = (  # of an output's part of it
    Gauge("adaptd_output_running", "Whether the output is sent to: not paused, not failing.", lambda o: o["state"] == "running"),
    Gauge("adaptd_output_lag", "Predictions and verdicts that were not sent.", lambda o: o["lag"]),
    Gauge("adaptd_output_errors_total", "Failures, since the start.", lambda o: o["errors"]),
    Gauge("adaptd_output_messages_total", "Messages that were acknowledged, in all.", lambda o: o["sent"]),
)
PART = (  # of a part's health
    Gauge("adaptd_part_heartbeat_age_seconds", "How long ago the part's loop turned.", lambda p: p["age_s"]),
    Gauge("adaptd_part_well", "Whether the part turns and does not fail.", lambda p: p["state"] in WELL),
)
WHOLE = (  # of all that is looked at
    Gauge("adaptd_ready", "Whether every champion answers.", lambda w: w["state"] == "running"),
    Gauge("adaptd_journal_seq", "The newest seq of the journal.", lambda w: w["seq"]),
    Gauge("adaptd_disk_free_bytes", "Free on the store's disk.", lambda w: w["disk_free"]),
    Gauge("adaptd_store_bytes", "Size of the database and its write-ahead log.", lambda w: w["store_size"]),
)
QUEUE = Gauge("adaptd_queue_length", "What waits: events for the writer, inputs and labels for the encoder, entries to be "
              "learned, alerts to be sent.", lambda n: n)
PROBLEMS = Gauge("adaptd_problems", "Problems that the status shows now, by code.", lambda n: n)


class Meters:
    """What is counted as it happens, and the exposition."""

    def __init__(self) -> None:
        # the times of creation double the series and tell nothing that is asked here
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        prometheus.Info("adaptd_build", "What runs.", registry=registry).info(
            {"version": __version__, "python": platform.python_version()})
        self._requests = prometheus.Histogram(
            "adaptd_request_seconds", "Latency of a stage's requests.", ["stage", "domain"], registry=registry, buckets=REQUEST_S)
        self._failures = prometheus.Counter(
            "adaptd_request_failures_total", "Requests that got an error, by its code.", ["stage", "domain", "code"],
            registry=registry)
        self._stages = prometheus.Histogram(
            "adaptd_stage_seconds", "Time that a stage takes: a group, batch or block at once.", ["stage"], registry=registry,
            buckets=STAGE_S)
        self._stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self.predictions = prometheus.Counter("adaptd_predictions_total", "Inputs answered.", ["domain"], registry=registry)
        self.ingested = prometheus.Counter(
            "adaptd_ingested_total", "Events and labels by what became of them.", ["domain", "status"], registry=registry)
        self.verdicts = prometheus.Counter(
            "adaptd_verdicts_total", "Adaptations by what they came to.", ["domain", "decision"], registry=registry)
        self._phases = prometheus.Histogram(
            "adaptd_adaptation_seconds", "Time that a phase of an adaptation takes.", ["domain", "phase"], registry=registry,
            buckets=ADAPTATION_S)
        self._trainer_cpu = prometheus.Counter(
            "adaptd_trainer_cpu_seconds_total", "CPU time of training.", ["domain"], registry=registry)
        self._trainer_memory = prometheus.Gauge(
            "adaptd_trainer_memory_bytes", "Most memory that the newest training took.", ["domain"], registry=registry)
        self.alerts = prometheus.Counter(
            "adaptd_alerts_total", "Alerts by sink and what became of them.", ["sink", "outcome"], registry=registry)

    @contextmanager
    def time(self, stage: str, domain: str) -> Iterator[None]:
        """Observe a request's latency, and count it where it fails."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            code = error.code if isinstance(error, AdaptdError) else "internal"  # as it goes out
            if code != "unknown_domain":  # anybody's words are no label
                self._failures.labels(stage, domain, code).inc()
            raise
        self._requests.labels(stage, domain).observe(time.perf_counter() - began)

    def told(self, stage: str, began: float, traces: Traces = (), events: Sequence[int] = ()) -> None:
        """Observe a stage that is over."""
        self._stage[stage].observe(time.monotonic() - began)

    def phase(self, domain: str, phase: str, seconds: float) -> None:
        """Observe a phase of an adaptation."""
        self._phases.labels(domain, phase).observe(seconds)

    def trained(self, domain: str, report: Json) -> None:
        """Count what a training took, by its report."""
        self._trainer_cpu.labels(domain).inc(report["cpu_seconds"])
        self._trainer_memory.labels(domain).set(report["memory_mb"] * 1024 * 1024)

    def exposition(self, whole: Json) -> bytes:
        """Return everything: what was counted, and what `whole` says (the status, health, queues and the disk)."""
        return prometheus.generate_latest(self.registry) + prometheus.generate_latest(_Now(whole))


class _Now(Collector):
    """The gauges of one scrape."""

    def __init__(self, whole: Json) -> None:
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        whole = self._whole
        codes = [one["code"] for one in whole["problems"]]
        yield from _families(WHOLE, "", {"": whole})
        yield from _families(DOMAIN, "domain", whole["domains"])
        yield from _families(FEED, "feed", whole["feeds"])
        yield from _families(OUTPUT, "output", whole["outputs"])
        yield from _families(PART, "part", whole["parts"])
        yield from _families([QUEUE], "queue", whole["queues"])
        yield from _families([PROBLEMS], "code", {code: codes.count(code) for code in codes})


def _families(gauges: Sequence[Gauge], label: str, of: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield a family for each gauge, with a sample for each of what it is read of."""
    for gauge in gauges:
        kind = CounterMetricFamily if gauge.name.endswith("_total") else GaugeMetricFamily
        family = kind(gauge.name, gauge.help, labels=[label] if label else [])
        for name, about in of.items():
            if (value := gauge.read(about)) is not None:
                family.add_metric([name] if label else [], float(value))
        yield family
