"""Probation on a real daemon: what passed the gate and does badly on live traffic is taken back; what does well stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
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
TAUGHT = 20  # of each label, before the promotion
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
    engine = db.writing_engine(daemon.paths.database)
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


def test_a_version_that_passes_the_gate_and_does_badly_is_demoted_by_itself(ready: Callable[..., tuple[Daemon, int]]) -> None:
    daemon, number = ready(bad())
    failed: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            status, document = daemon.ask("POST", "/v1/text/predict", {"inputs": [{"text": "my flight to Rome"}]})
            if status != 200 or document["predictions"][0]["label"] is None:
                failed.append(document)

    asking = threading.Thread(target=ask)
    asking.start()
    daemon.cli("promote", str(number), "--force", "--reason", "looks good")
    trial = daemon.domain()["probation"]
    assert (trial["version"], trial["compared"], trial["e_value"], trial["labels"]) == (number, 0, 1.0, 1000)
    champion, sent = trial["champion"], 0
    for events in live_traffic():
        sent += daemon.teach(events)["accepted"]
        if daemon.domain()["version"] != number:
            break
    until(lambda: daemon.domain()["version"] != number, f"demoted: {daemon.domain()['probation']}")
    over.set()
    asking.join(60)
    assert failed == []

    found = daemon.domain()
    promoted, demoted = history(daemon)
    print(demoted)
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
    assert daemon.domain()["probation"] == before  # folded again from the promotion on
    daemon.teach(next(traffic))
    snapshot = daemon.post("text/snapshot")["version"]
    daemon.teach(next(traffic))
    assert daemon.domain()["probation"]["compared"] == 40
    daemon.kill()
    daemon.start()
    assert daemon.domain()["probation"]["compared"] == 40  # from the snapshot on
    daemon.restart()
    assert daemon.domain()["probation"]["compared"] == 40  # from the checkpoint
    assert daemon.cli("status").count("on probation: 40 of 100 labels") == 1
    assert daemon.stop() == 0
    assert json.loads(daemon.cli("status", "--json", expect=3))["domains"]["text"]["probation"]["compared"] == 40
    daemon.start()
    while (trial := daemon.domain()["probation"]) is not None:
        assert trial["compared"] < 100
        daemon.teach(next(traffic))
    until(lambda: len(history(daemon)) == 2, "the line is written")
    passed = history(daemon)[1]
    assert (passed["what"], passed["after"], passed["actor"]) == ("probation-passed", number, "adaptd")
    assert passed["detail"]["compared"] == 104 and passed["detail"]["e_value"] < 20
    assert daemon.domain()["version"] == snapshot
    assert "demoted" not in daemon.problems()
    assert daemon.restart().domain()["probation"] is None


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
    assert daemon.restart().domain()["probation"] is None
    assert daemon.stop() == 0
    second = enter(daemon, Adapter(scale=36.0))
    daemon.start()
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
