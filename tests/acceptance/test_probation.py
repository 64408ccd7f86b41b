"""Probation on a real daemon: what passed the gate and does badly on live traffic is taken back; what does well stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from adaptd import db, registry
from adaptd.model import files
from adaptd.model.attention import Adapter
from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
CONFIG = """
[adapt]
every_labels = 0
[probation]
labels = {labels}
days = {days}
"""
LABELS = list(SUBJECTS)
TAUGHT = 8  # of each label, before the promotion: so few that trust has not learned to do without attention
GOOD = Adapter(scale=38.0)  # answers nearly as the untrained one does


def bad() -> Adapter:
    """Return an adapter that sees two dimensions, and card in everything."""
    dim = 1152
    return Adapter(torch.randn(dim, 2, generator=torch.Generator().manual_seed(0)), 16.0, {"card": 30.0})


@pytest.fixture
def ready(make: Make) -> Iterator[Callable[..., tuple[Daemon, int]]]:
    """Return what makes a taught daemon with a candidate that has passed the gate but is not live yet."""

    def made(adapter: Adapter, labels: int = 1000, days: float = 7.0) -> tuple[Daemon, int]:
        daemon = make(CONFIG.format(labels=labels, days=days)).start()
        daemon.teach(lesson(LABELS, TAUGHT, prefix="old"))
        assert daemon.stop() == 0
        number = enter(daemon, adapter)
        return daemon.start(), number

    yield made


def enter(daemon: Daemon, adapter: Adapter) -> int:
    """Enter a candidate into a stopped store, as an adaptation would, with a verdict from a holdout that knew no better."""
    engine = db.writing_engine(daemon.paths.store)
    with engine.begin() as connection:
        domain = registry.domain_id(connection, "text")
        assert domain is not None
        live = registry.live(connection, domain)
        champion = registry.version(connection, live.version)
        number = registry.next_number(connection)
        digests = registry.publish(daemon.paths.versions / str(number), {"label.adapter": files.dump_adapter(adapter)})
        registry.add(connection, registry.Version(
            number=number, domain=domain, kind="candidate", parent=live.version, branch=live.branch, seq=champion.seq,
            encoder=champion.encoder, config=champion.config, files=digests, metrics={}, actor="test", reason="test",
            verdict={"decision": "promote", "reasons": ["good on the gate set"], "evidence": {}}, created=time.time()))
    engine.dispose()
    return number


def live_traffic(first: int = TAUGHT, last: int = 50) -> Iterator[list[Json]]:
    """Yield labelled events nobody has seen, eight at a time."""
    for place in range(first, last):
        yield [{"text": texts(label)[place], "label": label, "id": f"new{place}{label}"} for label in LABELS]


def history(daemon: Daemon) -> list[Json]:
    """Return the lines about promotions and what came of them, oldest first."""
    lines: list[Json] = daemon.ask("GET", "/v1/history?domain=text&limit=100")[1]["actions"]
    about = ("promote", "demote", "probation-passed", "rollback", "forget")
    return [line for line in reversed(lines) if line["what"] in about]


@contextmanager
def asking(daemon: Daemon) -> Iterator[None]:
    """Ask for answers all the while; none may fail."""
    failed: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, document = daemon.ask("POST", "/v1/text/predict", {"inputs": [{"text": "my flight to Rome"}]})
            if status != 200 or document["predictions"][0]["label"] is None:
                failed.append(document)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
    assert failed == []


def test_a_version_that_passes_the_gate_and_does_badly_is_demoted_by_itself(ready: Callable[..., Any]) -> None:
    daemon, number = ready(bad())
    with asking(daemon):
        daemon.cli("promote", str(number), "--force", "--reason", "looks good")
        trial = daemon.domain()["probation"]
        assert (trial["version"], trial["compared"], trial["e_value"], trial["labels"]) == (number, 0, 1.0, 1000)
        champion, sent = trial["champion"], 0
        for events in live_traffic(last=45):
            sent += daemon.teach(events)["accepted"]
            if daemon.domain()["version"] != number:
                break
        until(lambda: "demoted" in daemon.problems(), f"demoted: {daemon.domain()['probation']}")

    found = daemon.domain()
    promoted, demoted = history(daemon)
    assert (promoted["what"], promoted["after"], demoted["what"]) == ("promote", number, "demote")
    assert (demoted["before"], demoted["after"], demoted["actor"]) == (number, found["version"], "adaptd")
    evidence = demoted["detail"]
    assert (evidence["version"], evidence["champion"]) == (number, champion)
    assert evidence["e_value"] >= 20 and evidence["worse"] > evidence["better"] and evidence["compared"] <= sent
    assert str(evidence["worse"]) in demoted["reason"]
    assert f"version {number}" in daemon.problems()["demoted"]
    assert (found["memory"], found["held"], found["probation"]) == (8 * TAUGHT + sent, [], None)  # nothing lost, nothing held

    versions = {one["version"]: one for one in daemon.ask("GET", "/v1/text/versions")[1]["versions"]}
    new = versions[found["version"]]
    assert new["kind"] == "reinstated" and new["files"]["label.adapter"] == versions[champion]["files"]["label.adapter"]
    assert versions[new["parent"]]["kind"] == "saved"
    after = list(live_traffic(45))
    right = [daemon.predict(e["text"])["predictions"][0]["label"] == e["label"] for events in after for e in events]
    assert sum(right) > 0.8 * len(right)
    daemon.teach(after[0])
    daemon.kill()  # no checkpoint: from the version and the journal
    daemon.start()
    assert daemon.domain()["memory"] == 8 * TAUGHT + sent + 8 and daemon.domain()["probation"] is None
    assert daemon.domain()["version"] == found["version"]
    assert daemon.post("text/rollback")["version"] == found["version"]  # what came since is taken back, not the demotion
    assert [line["what"] for line in history(daemon)] == ["promote", "demote", "rollback"]


def test_a_version_that_does_as_well_passes_over_a_crash_a_snapshot_and_a_stop(ready: Callable[..., Any]) -> None:
    daemon, number = ready(GOOD, labels=100)
    daemon.cli("promote", str(number), "--reason", "the gate says so")
    traffic = live_traffic()
    for _ in range(3):
        daemon.teach(next(traffic))
    before = daemon.domain()["probation"]
    assert (before["compared"], before["version"]) == (24, number)
    daemon.kill()
    daemon.start()
    after = daemon.domain()["probation"]  # folded again from the promotion on
    assert [after[name] for name in ("version", "champion", "compared")] == [number, before["champion"], 24]
    daemon.teach(next(traffic))
    snapshot = daemon.post("text/snapshot")["version"]
    daemon.teach(next(traffic))
    assert daemon.domain()["probation"]["compared"] == 40
    assert daemon.cli("status").count("on probation: 40 of 100 labels") == 1
    assert daemon.stop() == 0
    assert json.loads(daemon.cli("status", "--json", expect=3))["domains"]["text"]["probation"]["compared"] == 40
    daemon.start()
    assert daemon.domain()["probation"]["compared"] == 40  # from the checkpoint
    for _ in range(8):
        assert daemon.domain()["probation"]["compared"] < 100
        daemon.teach(next(traffic))
    until(lambda: len(history(daemon)) == 2, "the line is written")
    passed = history(daemon)[1]
    assert (passed["what"], passed["after"], passed["actor"]) == ("probation-passed", number, "adaptd")
    assert passed["detail"]["compared"] == 104 and passed["detail"]["e_value"] < 20
    assert daemon.domain()["version"] == snapshot
    assert "demoted" not in daemon.problems()


def test_the_window_ends_by_the_clock_too_and_none_is_opened_where_none_is_wanted(ready: Callable[..., Any]) -> None:
    daemon, number = ready(GOOD, days=1e-6)
    daemon.cli("promote", str(number), "--reason", "try")
    daemon.teach(next(live_traffic()))
    until(lambda: [line["what"] for line in history(daemon)] == ["promote", "probation-passed"], "the window is over")
    assert daemon.domain()["probation"] is None
    assert daemon.stop() == 0
    second = enter(daemon, Adapter(scale=36.0))
    daemon.start(ADAPTD_DOMAINS__TEXT__PROBATION__LABELS="0")
    daemon.cli("promote", str(second), "--reason", "try")
    daemon.teach(next(live_traffic(30)))
    assert daemon.domain()["probation"] is None and history(daemon)[-1]["what"] == "promote"


def test_a_rollback_and_a_forget_end_it(ready: Callable[..., Any]) -> None:
    daemon, number = ready(GOOD)
    daemon.cli("promote", str(number), "--reason", "try")
    champion = daemon.domain()["probation"]["champion"]
    traffic = live_traffic()
    daemon.teach(next(traffic))
    daemon.post("text/rollback", {"to": champion})
    daemon.post("text/resume")
    assert daemon.domain()["probation"] is None
    daemon.teach(next(traffic))
    assert daemon.stop() == 0
    second = enter(daemon, Adapter(scale=36.0))
    assert daemon.start().domain()["probation"] is None
    daemon.cli("promote", str(second), "--reason", "try")
    taught = daemon.teach(next(traffic))["events"]
    assert daemon.domain()["probation"]["compared"] == 8
    daemon.post("text/forget", {"source": "nobody"})
    assert daemon.restart().domain()["probation"]["compared"] == 8  # it found nothing
    daemon.post("text/forget", {"event": taught[0]})
    assert daemon.domain()["probation"] is None and daemon.domain()["version"] == second
    assert daemon.restart().domain()["probation"] is None
    daemon.teach(next(traffic))
    assert [line["what"] for line in history(daemon)] == ["promote", "rollback", "promote", "forget", "forget"]


def test_the_incumbent_stands_beside_adaptd_until_the_operator_switches(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather", "music"], 10), domain)
    assert shared.domain(domain)["incumbent"] is None
    asked = [{"text": text, "label": label, "answer": "weather", "id": text} for label in ("card", "weather")
             for text in texts(label)[10:20]]
    inputs = [{**one, "label": None} for one in asked[5:15]]  # half of them are asked for first
    told = shared.post(f"{domain}/predict", {"inputs": inputs})["predictions"]
    until(lambda: shared.rows("SELECT count(*) FROM prediction p JOIN event e ON e.seq = p.event JOIN domain d ON d.id = e.domain"
                              " WHERE d.name = ?", domain) == [(10,)], "the answers are stored")
    right = sum(one["label"] == event["label"] for one, event in zip(told, asked[5:15], strict=True))
    shared.teach(asked[5:15], domain)  # the same events again, with their labels
    found = shared.domain(domain)["incumbent"]
    assert (found["version"], found["compared"], found["switched_at"]) == (0, 10, None)
    assert found["accuracy"] == {"adaptd": right / 10, "incumbent": 0.5} and found["better"] - found["worse"] == right - 5
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    shared.teach([*asked[:5], *asked[15:], *lesson(["music"], 2)], domain)  # never asked for; no answer of the incumbent's
    before = shared.domain(domain)["incumbent"]
    assert (before["compared"], before["accuracy"]["incumbent"]) == (20, 0.5) and before["accuracy"]["adaptd"] > 0.5

    assert "version" in shared.cli("switch", "--domain", domain, "--reason", "better for a month")
    status, refused = shared.ask("POST", f"/v1/{domain}/switch")
    assert (status, refused["error"]["code"]) == (409, "conflict")
    line = shared.ask("GET", f"/v1/history?domain={domain}&limit=1")[1]["actions"][0]
    assert (line["what"], line["before"], line["reason"], line["detail"]["compared"]) == ("switch", 0, "better for a month", 20)
    shared.teach([{"text": texts("card")[30], "label": "card", "answer": "weather"}], domain)
    after = shared.domain(domain)["incumbent"]
    assert after["compared"] == 20 and after["switched_at"] is not None
    shared.cli("switch", "--back", "--domain", domain)
    shared.teach([{"text": texts("card")[31], "label": "card", "answer": 7}], domain)  # no label: wrong
    assert shared.domain(domain)["incumbent"]["compared"] == 21


def test_the_comparison_with_the_incumbent_comes_back_with_its_version_and_over_a_crash(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather"], 5))
    daemon.teach([{"text": text, "label": "card", "answer": "weather"} for text in texts("card")[5:10]])
    version = daemon.post("text/snapshot")["version"]
    then = daemon.domain()["incumbent"]
    daemon.teach([{"text": text, "label": "card", "answer": "card"} for text in texts("card")[10:20]])
    later = daemon.domain()["incumbent"]
    assert (then["compared"], later["compared"]) == (5, 15)
    daemon.kill()
    daemon.start()
    assert daemon.domain()["incumbent"] == later
    assert daemon.restart().domain()["incumbent"] == later
    daemon.post("text/rollback", {"to": version})
    assert daemon.domain()["incumbent"] == then
    daemon.post("text/resume")
    daemon.post("text/forget", {"since": 0.0})
    assert daemon.domain()["incumbent"] is None
