"""What a daemon says of itself to others: Prometheus, Grafana, OpenTelemetry, alert sinks, TensorBoard and W&B."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from adaptd.feeds.webhook import Webhook
from adaptd.stages import STAGES
from tests.acceptance.daemon import Daemon, lesson, until
from tests.acceptance.receivers import Receiver

pytestmark = pytest.mark.acceptance
ROOT = Path(__file__).parents[2]
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REPEAT_S = 20.0
CONFIG = """
[http]
port = 0
[learn]
abstain_error = 0.1
[adapt]
every_labels = 0
options = {{ steps = 16 }}
log = ["tensorboard", "wandb"]
[traces]
endpoint = "{traces}/v1/traces"
headers = {{ x-team = "ml" }}
[feeds.mail]
kind = "jsonl"
domain = "text"
options = {{ path = "mail.jsonl" }}
[alerts.ops]
kind = "webhook"
on = ["problem", "resolved", "promote", "reject", "undecided"]
repeat_s = {repeat_s}
options = {{ url = "{alerts}", secret = "{secret}" }}
[alerts.page]
kind = "command"
options = {{ argv = ["/bin/false"] }}
"""
Json = dict[str, Any]


@dataclass
class Watched:
    """A daemon that has done everything once, and what it sent."""

    daemon: Daemon
    traces: Receiver
    alerts: Receiver
    verdict: Json
    event: str
    seq: int
    failing: tuple[int, Json]  # what its feed's ping was answered with while it failed

    def spans(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return all spans, and the resource of each."""
        found = []
        for _, headers, body in tuple(self.traces.taken):
            request = ExportTraceServiceRequest()
            request.ParseFromString(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
            for of in request.resource_spans:
                resource = {one.key: one.value.string_value for one in of.resource.attributes}
                found += [(span, resource) for scope in of.scope_spans for span in scope.spans]
        return found

    def told(self, kind: str) -> list[Json]:
        """Return the alerts of a kind."""
        bodies = [json.loads(body) for _, _, body in tuple(self.alerts.taken)]
        return [one for one in bodies if one["kind"] == kind]

    def metrics(self) -> str:
        """Scrape over TCP, as Prometheus does."""
        return fetched(self.daemon, "GET", "/metrics").decode()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with Receiver() as traces, Receiver() as alerts:
        with Daemon(CONFIG.format(traces=traces.url, alerts=alerts.url, secret=SECRET, repeat_s=REPEAT_S)) as daemon:
            daemon.start()
            (daemon.folder / "mail.jsonl").mkdir()  # the feed fails from now on
            daemon.teach(lesson(["card", "weather", "music", "food", "travel"], 50))
            context = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = posted(daemon, "text/predict", {"inputs": [{"text": "the rain"}, {"text": "a jazz album"}]}, context)
            event = answer["predictions"][0]["event"]
            seq = daemon.post("text/feedback", {"event": event, "label": "weather"}, 202)["seq"]
            until(lambda: any(b"feed_failed" in body for _, _, body in alerts.taken), "an alert")
            failing = daemon.ask("GET", "/v1/health/feed:mail")
            (daemon.folder / "mail.jsonl").rmdir()
            (daemon.folder / "mail.jsonl").write_text("")  # it is well again, and looked at meanwhile
            verdict = daemon.post("text/adapt", {"wait": True})
            yield Watched(daemon, traces, alerts, verdict, event, seq, failing)


def posted(daemon: Daemon, path: str, body: Json, headers: dict[str, str]) -> Json:
    """Post with headers of one's own."""
    found: Json = json.loads(fetched(daemon, "POST", f"/v1/{path}", json.dumps(body), **headers))
    return found


def fetched(daemon: Daemon, method: str, path: str, body: str | None = None, **headers: str) -> bytes:
    """Return what a request over TCP is answered with."""
    address = next(one for one in daemon.status()["listening"] if one.startswith("http://"))
    known = {"Authorization": f"Bearer {daemon.paths.token.read_text().strip()}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=60.0)) as connection:
        connection.request(method, path, body, {**known, **headers})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()


# -- Prometheus -----------------------------------------------------------------------------------------------


def families(text: str) -> dict[str, Metric]:
    """Return the exported families by the name that is asked for."""
    return {one.name + ("_total" if one.type == "counter" else ""): one for one in text_string_to_metric_families(text)}


def value(text: str, name: str, **labels: str) -> float:
    found = [sample.value for family in families(text).values() for sample in family.samples
             if sample.name == name and labels.items() <= sample.labels.items()]
    assert len(found) == 1, f"{name}{labels}: {found}"
    return float(found[0])


def test_names_follow_prometheus_rules(watched: Watched) -> None:
    """Those of `promtool check metrics`; it looks itself, where there is one."""
    text = watched.metrics()
    for name, family in families(text).items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", name) and "__" not in name, name
        assert family.documentation or name.startswith("process_"), f"{name} has no help"
        assert (family.type == "counter") == name.endswith("_total"), f"{name}: {family.type}"
        assert not re.search(r"_(gauge|counter|histogram|summary|count|sum|bucket|created)$", name), name
        assert not re.search(r"_(ms|millis\w*|micros\w*|minutes|hours|days|kb|mb|gb|\w+[oa]bytes|percent)(_|$)", name), name
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels), sample
            assert ("le" in sample.labels) == (family.type == "histogram" and sample.name.endswith("_bucket")), sample
    if promtool := shutil.which("promtool"):
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_stage_queue_part_feed_and_training_is_measured(watched: Watched) -> None:
    text = watched.metrics()
    told = {stage: value(text, "adaptd_stage_seconds_count", stage=stage) for stage in STAGES}
    assert all(told.values()), told
    took = {stage: value(text, "adaptd_stage_seconds_sum", stage=stage) for stage in STAGES}
    assert took["learn"] >= took["encode_labels"] > 0  # it waits for that
    for stage in ("predict", "events", "feedback"):
        assert value(text, "adaptd_request_seconds_count", stage=stage, domain="text") == 1
    status = watched.daemon.domain()
    assert value(text, "adaptd_memory_rows", domain="text") == status["memory"] == 251
    assert value(text, "adaptd_memory_bytes", domain="text") == status["memory_bytes"] > 251 * 384 * 2
    assert value(text, "adaptd_live_version", domain="text") == status["version"]
    assert value(text, "adaptd_verdicts_total", domain="text", decision=watched.verdict["verdict"]) == 1
    assert value(text, "adaptd_verdicts_total", domain="text", decision="failed") == 0
    assert value(text, "adaptd_holdout_accuracy_ratio", domain="text") == status["accuracy"]["holdout"]
    for phase in ("prepare", "train", "evaluate", "decide"):
        assert value(text, "adaptd_adaptation_seconds_count", domain="text", phase=phase) == 1
    assert value(text, "adaptd_trainer_cpu_seconds_total", domain="text") > 0.1
    assert value(text, "adaptd_trainer_memory_bytes", domain="text") > 100e6
    for queue in ("journal", "inference", "encoding", "learning", "alerts"):
        assert value(text, "adaptd_queue_length", queue=queue) >= 0
    for part in ("writer", "inference", "learner:text", "scheduler"):
        assert value(text, "adaptd_part_well", part=part) == 1
        assert value(text, "adaptd_part_heartbeat_age_seconds", part=part) < 60
    assert value(text, "adaptd_feed_dead_letters", feed="mail") == 0
    assert value(text, "adaptd_ready") == 1 and value(text, "adaptd_journal_seq") >= watched.seq


def test_a_request_that_fails_is_counted_by_its_code(watched: Watched) -> None:
    watched.daemon.post("text/feedback", {"event": "nobody", "label": "x"}, 404)
    watched.daemon.post("nowhere/predict", {"inputs": [{"text": "x"}]}, 404)
    text = watched.metrics()
    assert value(text, "adaptd_request_failures_total", stage="feedback", domain="text", code="not_found") == 1
    assert "nowhere" not in text  # a stranger's words make no series


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where an expression of a shipped file stands, and the expression."""
    dashboard = json.loads((ROOT / "configs/grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for one in dashboard["templating"]["list"]:
        if one["type"] == "query":
            yield f"variable {one['name']}", one["query"]["query"]
    for one in dashboard["annotations"]["list"]:
        yield f"annotation {one['name']}", one["expr"]
    for group in yaml.safe_load((ROOT / "configs/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule['alert']}", rule["expr"]


def test_dashboard_and_alert_rules_ask_for_what_is_exported(watched: Watched) -> None:
    text = watched.metrics()
    known = families(text)
    samples = {name: {"instance", "job"} | {label for sample in family.samples for label in sample.labels}
               for name, family in known.items()}
    used = set()
    for where, expression in expressions():
        names = set(re.findall(r"\b(?:adaptd|process)_[a-z_]+", expression))
        assert names or "up{" in expression, f"{where}: {expression}"
        for name in names:
            family = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
            assert family in known, f"{where} asks for {name}, which is not exported"
            used.add(family)
            for matcher in re.findall(rf"{name}{{([^}}]*)}}", expression):
                labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matcher))
                unknown = labels - samples[family] if known[family].samples else set()
                assert not unknown, f"{where}: {name} has no {unknown}"
    unused = {name for name in known if name.startswith("adaptd_")} - used - {"adaptd_build_info", "adaptd_journal_seq"}
    assert not unused, f"nobody looks at {unused}"


def test_the_page_lists_what_is_exported(watched: Watched) -> None:
    """Name, type, meaning; and the labels."""
    page = (ROOT / "docs/observability.md").read_text()
    rows = {row[1]: row for row in re.findall(r"^(\| `(adaptd_\w+)` \| (\w+) \| (.*?) \| (.*) \|)$", page, re.M)}
    for name, family in families(watched.metrics()).items():
        if name.startswith("adaptd_"):
            assert name in rows, f"docs/observability.md has no row for {name}"
            _, _, kind, labels, meaning = rows.pop(name)
            assert (kind, meaning) == (family.type, family.documentation), name
            for sample in family.samples:
                assert set(re.findall(r"\w+", labels)) == set(sample.labels) - {"le"}, name
    assert not rows, f"not exported: {set(rows)}"
    for stage, words in STAGES.items():
        assert f"| `{stage}` | {words} |" in page, stage


# -- health ---------------------------------------------------------------------------------------------------


def test_health_has_a_ping_for_every_part(watched: Watched) -> None:
    assert watched.failing[0] == 200 and watched.failing[1]["state"] == "failing"  # it is tried again by itself: not stuck
    status, health = watched.daemon.ask("GET", "/v1/health")
    assert status == 200 and health["state"] == "running"
    assert set(health["parts"]) == {"writer", "inference", "learner:text", "feed:mail", "scheduler", "event-loop"}
    assert watched.daemon.ask("GET", "/v1/health/writer")[1]["state"] == "ok"
    assert watched.daemon.ask("GET", "/v1/health/nobody")[0] == 404


# -- traces ---------------------------------------------------------------------------------------------------


def test_a_trace_goes_from_the_clients_request_to_what_it_taught(watched: Watched) -> None:
    until(lambda: any(span.name == "learn" and span.links for span, _ in watched.spans()), "spans")
    spans = watched.spans()
    mine = {span.name: span for span, _ in spans if span.trace_id.hex() == TRACE}
    root = mine["POST /v1/{domain}/predict"]
    assert root.parent_span_id.hex() == PARENT and root.kind == 2  # a server's
    for stage in ("journal_wait", "commit", "inference_wait", "encode", "decode", "record"):
        assert mine[stage].parent_span_id == root.span_id, stage
    assert root.start_time_unix_nano <= mine["encode"].start_time_unix_nano <= mine["decode"].start_time_unix_nano
    assert mine["decode"].end_time_unix_nano <= root.end_time_unix_nano
    attributes = {one.key: one.value for one in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    taught = next(span for span, _ in spans if span.name == "learn" and span.links)
    parent = next(span for span, _ in spans if span.span_id == taught.parent_span_id)
    assert parent.name == "POST /v1/{domain}/feedback" and not parent.parent_span_id
    assert [link.trace_id.hex() for link in taught.links] == [TRACE]
    learned = {span.name for span, _ in spans if span.trace_id == parent.trace_id}
    assert learned >= {"journal_wait", "commit", "learn"}
    assert {resource["service.name"] for _, resource in spans} == {"adaptd"}
    assert watched.traces.taken[0][0] == "/v1/traces" and watched.traces.taken[0][1]["x-team"] == "ml"


def test_a_client_that_is_not_sampled_is_not_traced(watched: Watched) -> None:
    other = TRACE[::-1]
    posted(watched.daemon, "text/predict", {"inputs": [{"text": "snow"}]}, {"traceparent": f"00-{other}-{PARENT}-00"})
    posted(watched.daemon, "text/predict", {"inputs": [{"text": "hail"}]}, {"traceparent": "not one"})
    until(lambda: sum(one.name == "POST /v1/{domain}/predict" for one, _ in watched.spans()) >= 2, "the second one's spans")
    assert other not in {span.trace_id.hex() for span, _ in watched.spans()}


# -- alerts ---------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_told_once_and_when_it_is_over(watched: Watched) -> None:
    failed = until(lambda: [one for one in watched.told("problem") if one["code"] == "feed_failed"], "an alert")
    assert failed[0]["subject"] == "feed mail" and failed[0]["store"] == str(watched.daemon.paths.state)
    over = until(lambda: watched.told("resolved"), "the end of it")
    assert over[0]["key"] == failed[0]["key"]
    times = [one["at"] for one in watched.told("problem") if one["code"] == "feed_failed"]
    assert all(later - one > REPEAT_S - 1 for one, later in pairwise(times))  # its words changed meanwhile
    feed = Webhook(secret=SECRET, signature="standard")
    for _, headers, body in watched.alerts.taken:
        feed.signed(headers, body)


def test_a_sink_that_fails_is_a_problem_that_the_others_hear_of(watched: Watched) -> None:
    found = until(lambda: [one for one in watched.told("problem") if one["code"] == "alert_failed"], "an alert")
    assert found[0]["subject"] == "page" and "/bin/false ended with 1" in found[0]["message"]
    assert "page" in watched.daemon.problems()["alert_failed"]


def test_a_verdict_is_told(watched: Watched) -> None:
    (told,) = until(lambda: watched.told(watched.verdict["verdict"]), "an alert")
    assert told["subject"] == "text" and told["message"] == f"text: {'; '.join(watched.verdict['reasons'])}"


# -- runs -----------------------------------------------------------------------------------------------------


def test_an_adaptation_is_logged_for_tensorboard(watched: Watched) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    version = watched.verdict["version"]
    folder = watched.daemon.paths.runs / "tensorboard" / f"text-label-v{version}"
    until(lambda: list((watched.daemon.paths.runs / "wandb").glob("*/*.wandb")), "both logs")
    events = EventAccumulator(str(folder))
    events.Reload()
    losses = [one.value for one in events.Scalars("loss")]
    assert len(losses) > 1 and losses[-1] == pytest.approx(trained(watched)["numbers"]["loss_last"])
    holdout = {name: events.Scalars(f"holdout_{name}")[0].value for name in ("candidate", "champion")}
    assert holdout == pytest.approx(held_out(watched))


def test_an_adaptation_is_logged_for_weights_and_biases_offline(watched: Watched) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = until(lambda: list((watched.daemon.paths.runs / "wandb").glob("offline-run-*/*.wandb")), "a run")
    records = []
    summary: dict[str, Any] = {}
    until(lambda: b"verdict" in file.read_bytes(), "its end")
    for data in blocks(file.read_bytes()):
        records.append(Record.FromString(data))
        summary |= {one.key: json.loads(one.value_json) for one in records[-1].summary.update if one.key}
    run = next(one.run for one in records if one.WhichOneof("record_type") == "run")
    assert run.project == "adaptd" and run.display_name == f"text-label-v{watched.verdict['version']}"
    assert summary["verdict"] == watched.verdict["verdict"]
    assert {name: summary[f"holdout_{name}"] for name in ("candidate", "champion")} == pytest.approx(held_out(watched))
    assert sum(one.WhichOneof("record_type") == "history" for one in records) > 1


def blocks(data: bytes) -> Iterator[bytes]:
    """Yield the records of a W&B file: LevelDB's log format behind seven bytes, each record within one block here."""
    at = 7
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        assert kind == 1, "a record in parts"
        yield data[at + 7:at + 7 + size]
        at += 7 + size


def trained(watched: Watched) -> Json:
    return dict(stored(watched)["training"])


def held_out(watched: Watched) -> Json:
    return dict(stored(watched)["holdout"])


def stored(watched: Watched) -> Json:
    ((metrics,),) = watched.daemon.rows("SELECT metrics FROM version WHERE number = ?", watched.verdict["version"])
    found: Json = json.loads(metrics)
    return found


# -- and nothing of it where it is not asked for ----------------------------------------------------------------


def test_what_is_not_asked_for_is_not_imported() -> None:
    """Neither OpenTelemetry nor TensorBoard nor W&B, whatever else a daemon imports."""
    heavy = ("opentelemetry", "wandb", "tensorboard")
    code = f"import sys, adaptd.daemon; print(*[one for one in sys.modules if one.split('.')[0] in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
