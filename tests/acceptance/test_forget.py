"""Forget on a real daemon: what is left equals a daemon that never saw it, and the bytes are gone from the disk."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from adaptd.errors import AdaptdError
from tests.acceptance.daemon import ADAPTING, Daemon, Json, lesson, texts, until
from tests.postgres import analyse, files

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie",
         "when does my flight leave?")
TEXT, KEY = "Zoë Quarzbläser wants her kärtchen", "clients-own-id-4711"
SUBJECT, LABEL = "subject-zoe-quarz", "label-of-quarz-alone"


def found(daemon: Daemon, needles: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Return which needles the store's folder holds, or its tables' files, in any byte of any file, and where."""
    held = {str(path): path.read_bytes() for path in daemon.folder.rglob("*") if path.is_file()}
    if daemon.paths.url is not None:
        held |= files(daemon.paths.url)
    return {(name, file) for file, data in held.items() for name, needle in needles.items() if needle in data}


def teach_secrets(daemon: Daemon) -> dict[str, bytes]:
    """Teach what is to be forgotten among other things; return what its bytes are, each a needle."""
    daemon.teach(lesson(["card", "weather"], 10))
    daemon.teach([{"text": TEXT, "id": KEY, "subject": SUBJECT, "label": LABEL, "answer": "old " + LABEL, "source": "crm"}])
    daemon.teach(lesson(["music", "card"], 10, prefix="later"))
    daemon.predict(TEXT + " now")  # unlabelled, not of the subject: stays
    event, vector = daemon.rows("SELECT v.event, v.data FROM vector v JOIN event e ON e.seq = v.event WHERE e.key = ?", KEY)[0]
    assert event and len(vector) >= 256
    return {"text": f'"{TEXT}"'.encode(), "escaped": json.dumps(TEXT).encode(), "key": KEY.encode(), "subject": SUBJECT.encode(),
            "label": LABEL.encode(), "vector": vector[:64], "vector's end": vector[-64:]}


@pytest.mark.parametrize("running", [True, False])
def test_what_was_forgotten_is_in_no_byte_of_the_store(make: Make, running: bool) -> None:
    daemon = make().start()
    needles = teach_secrets(daemon)
    daemon.post("text/snapshot", {"reason": "a version's files hold it"})
    daemon.restart()  # so does a checkpoint
    if daemon.paths.url is not None:
        analyse(daemon.paths.url)  # so do PostgreSQL's statistics
    before = {name for name, _ in found(daemon, needles)}
    assert before == set(needles) - {"escaped"}, "the search finds what is there"
    daemon.cli("backup", str(backup := daemon.folder.with_suffix(".tar")))
    words = ("forget", "--subject", SUBJECT, "--reason", "their request", "--yes", "--json")
    if running:
        certificate = json.loads(daemon.cli(*words))
        assert daemon.stop() == 0
    else:
        assert daemon.stop() == 0
        certificate = json.loads(daemon.cli(*words))
    assert found(daemon, needles) == set()
    assert certificate["asked"] == {"subject": SUBJECT} and certificate["reason"] == "their request"
    assert certificate["removed"] == {"event": 1, "death": 0, "eviction": 0, "tested": 1, "learned": 1, "label": 1, "vector": 1,
                                      "prediction": 0, "blob": 0}
    assert certificate["labels_gone"] == 1 and certificate["actor"] and certificate["backups"] == [str(backup)]
    assert TEXT.encode() in backup.read_bytes()  # named, and left as it is
    backup.unlink()
    assert set(certificate["checks"]["tables"].values()) == {0} and certificate["checks"]["disk"].startswith("rewritten")
    daemon.start()
    assert found(daemon, needles) == set() and daemon.rows("SELECT * FROM store WHERE key LIKE 'forget:%'") == []
    assert (daemon.domain()["memory"], daemon.domain()["labels"]) == (40, 3)
    kept = daemon.ask("GET", "/v1/history?domain=text")[1]["actions"]
    detail = next(one for one in kept if one["what"] == "forget")["detail"]
    assert detail["removed"] == certificate["removed"] and set(detail["checks"]["tables"].values()) == {0}


def test_what_is_left_equals_a_daemon_that_never_saw_it(make: Make) -> None:
    taught, twin = (make(ADAPTING + "[learn]\nblock = 16\n").start() for _ in range(2))  # so that outcomes are folded
    poison = [{**one, "source": "poison", "label": wrong} for one, wrong in
              zip(lesson(["card", "music"], 20), ["food", "weather", "poisoned"] * 20, strict=False)]
    parts = [lesson(["card", "weather"], 20, prefix="a"), lesson(["music", "card"], 30, prefix="b"),
             lesson(["food"], 12, prefix="c")]
    for daemon in (taught, twin):
        if daemon is taught:
            daemon.teach(poison[:20])
        daemon.teach(parts[0])
        done = daemon.predict(*texts("weather")[:5], domain="text")["predictions"]
        daemon.post("text/feedback", [{"event": one["event"], "label": "rain"} for one in done], 202)
        if daemon is taught:
            daemon.teach(poison[20:])
        for part in parts[1:]:
            daemon.teach(part)
        daemon.post("text/feedback", {"source": "http", "id": "a3", "label": "card"}, 202)  # a correction
        daemon.teach([{"text": "a word", "label": "passing", "source": "brief"}])
    spoilt = taught.scores(ASKED)
    # The folds of outcomes depend on which labels came in one block: on the clock. A forget makes them again from the
    # journal in fixed blocks, so the twin, too, forgets something.
    for daemon in (taught, twin):
        daemon.post("text/forget", {"source": "brief", "reason": "both"})
    removed = taught.post("text/forget", {"source": "poison", "reason": "a poisoned feed"})["removed"]
    assert (removed["event"], removed["learned"]) == (40, 40)

    wanted = twin.scores(ASKED)
    _equal(taught.scores(ASKED), wanted)
    assert spoilt != wanted
    # (Calibration is of the confidences that were stated, before anything was forgotten: those differ.)
    for name in ("memory", "labels", "labelled", "accuracy", "answered_and_labelled"):
        assert taught.domain()[name] == twin.domain()[name]
    assert taught.domain()["answered_and_labelled"] == 5 and taught.domain()["accuracy"]["progressive"] is not None
    _equal(taught.restart().scores(ASKED), wanted)
    taught.crash()
    _equal(taught.start().scores(ASKED), wanted)
    for daemon in (taught, twin):  # and it goes on learning alike
        daemon.teach(lesson(["travel"], 5, prefix="d"))
    _equal(taught.scores(ASKED), twin.scores(ASKED))


def _equal(found: list[tuple[str, Json]], wanted: list[tuple[str, Json]]) -> None:
    assert [label for label, _ in found] == [label for label, _ in wanted]
    for (_, scores), (_, others) in zip(found, wanted, strict=True):
        assert scores == pytest.approx(others, abs=1e-6)


def test_a_forgotten_event_that_comes_again_is_refused_and_not_learned(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "music"], 3, prefix="x"), domain)
    event = shared.teach([{"id": "once", "text": "a secret", "label": "secret"}], domain)["events"][0]
    assert shared.post(f"{domain}/forget", {"event": event, "reason": "r"})["removed"]["learned"] == 1
    for path, body in ((f"{domain}/events", [{"id": "once", "text": "a secret", "label": "secret"}]),
                       (f"{domain}/feedback", [{"event": event, "label": "card"}]),
                       (f"{domain}/feedback", [{"source": "http", "id": "once", "label": "card"}])):
        status, document = shared.ask("POST", f"/v1/{path}", body)
        assert status == 422 and document["rejected"][0]["error"]["code"] == "forgotten", document
    status, document = shared.ask("GET", f"/v1/{domain}/explain/{event}")
    assert (status, document["error"]["code"]) == (410, "forgotten")
    assert shared.ask("GET", f"/v1/{domain}/memory")[1]["heads"]["label"]["labels"] == {"card": 3, "music": 3}
    assert "secret" not in shared.predict("a secret", domain=domain)["predictions"][0]["scores"]
    again = shared.post(f"{domain}/forget", {"event": event, "reason": "r"})
    assert set(again["removed"].values()) == {0}
    assert shared.teach(lesson(["card"], 1, prefix="new"), domain)["accepted"] == 1
    until(lambda: shared.domain(domain)["events"] == 8, "a forgotten event is not counted")  # one of them the prediction's


def test_labels_and_times_select_too_and_labels_that_wait_are_forgotten(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "music"], 3), domain)
    done = shared.post(f"{domain}/forget", {"label": "music", "reason": "a label that must not be"})
    assert (done["removed"]["event"], done["asked"]) == (3, {"label": "music"})
    now = time.time()
    shared.post(f"{domain}/hold", {"what": "learning"})
    held = shared.post(f"{domain}/events", lesson(["food"], 2), 202)
    assert held["held"] == 2
    done = shared.post(f"{domain}/forget", {"since": now, "until": time.time() + 1, "reason": "r"})
    assert (done["removed"]["event"], done["removed"]["label"], done["removed"]["learned"]) == (2, 2, 0)
    assert shared.post(f"{domain}/resume")["learned"] == 0
    assert shared.domain(domain)["memory"] == 3


@pytest.mark.parametrize(("body", "status", "field"), [
    ({"reason": "r"}, 422, "event"),
    ({"event": "e", "source": "s"}, 422, "source"),
    ({"event": "nobody"}, 404, "event"),
    ({"since": 4e9}, 422, "since"),
    ({"since": "yesterday"}, 422, "since"),
    ({"since": "2026-01-01T00:00:00"}, 422, "since"),
    ({"since": 2.0, "until": 1.0}, 422, "until"),
    ({"source": "s", "until": 1.0}, 422, "until"),
    ({"source": ""}, 422, "source"),
    ({"sauce": "s"}, 422, "sauce"),
])
def test_a_forget_that_cannot_be_says_what_is_wrong(shared: Daemon, body: Json, status: int, field: str) -> None:
    code, document = shared.ask("POST", "/v1/text/forget", body)
    assert (code, document["error"].get("field")) == (status, field), document
    assert document["error"]["hint"]


def test_a_forget_that_matches_nothing_is_certified_with_zeros(shared: Daemon, domain: str) -> None:
    for selector in ({"source": "nobody"}, {"subject": "nobody"}, {"label": "nothing"}):
        assert set(shared.post(f"{domain}/forget", selector)["removed"].values()) == {0}
    assert shared.ask("POST", "/v1/nowhere/forget", {"source": "s"})[0] == 404


def test_the_command_wants_one_selector_and_a_yes_where_nobody_can_be_asked(shared: Daemon) -> None:
    for words in (("--yes",), ("--source", "a", "--subject", "b", "--yes"), ("--source", "a")):
        shared.cli("forget", "--domain", "text", "--reason", "r", *words, expect=2)
    assert "0 events" in shared.cli("forget", "--domain", "text", "--source", "nobody", "--reason", "r", "--yes")


@pytest.mark.slow
def test_versions_that_were_trained_on_it_are_retired(make: Make) -> None:
    daemon = make(ADAPTING).start()
    daemon.teach(lesson(["card", "weather", "music", "food", "health", "garden"], 40))
    clean = daemon.post("text/adapt", {"wait": True})["version"]
    if daemon.domain()["version"] != clean:
        daemon.post("text/promote", {"to": clean, "force": True})
    daemon.teach(lesson(["card", "weather", "travel", "sport"], 10, source="theirs"))
    resolved = daemon.post("text/snapshot")["version"]
    tainted = daemon.post("text/adapt", {"wait": True})["version"]
    if daemon.domain()["version"] != tainted:
        daemon.post("text/promote", {"to": tainted, "force": True})
    assert daemon.domain()["version"] == tainted and clean < resolved < tainted

    done = daemon.post("text/forget", {"source": "theirs", "reason": "their request"})

    assert tainted in done["versions"]["retired"] and clean not in done["versions"]["retired"]
    assert resolved in done["versions"]["resolved"] and done["versions"]["live"] == daemon.domain()["version"]
    live = done["versions"]["live"]
    assert live not in done["versions"]["retired"]
    adapter = daemon.paths.versions / str(live) / "label.adapter"
    assert adapter.read_bytes() == (daemon.paths.versions / str(clean) / "label.adapter").read_bytes()
    assert list((daemon.paths.versions / str(tainted)).iterdir()) == []
    for verb in ("rollback", "promote"):
        status, document = daemon.ask("POST", f"/v1/text/{verb}", {"to": tainted})
        assert (status, document["error"]["code"]) == (409, "refused") and "retired" in document["error"]["message"]
    answers = daemon.scores(ASKED)
    assert (daemon.restart().scores(ASKED), daemon.domain()["version"]) == (answers, live)
    daemon.post("text/rollback", {"to": resolved})
    assert daemon.domain()["memory"] == 240
    assert [label for label, _ in daemon.scores(ASKED)][:4] == ["card", "weather", "music", "food"]
    assert "corrupt_version" not in daemon.problems()


@pytest.mark.slow
def test_an_adaptation_that_reads_it_is_stopped(make: Make) -> None:
    daemon = make(ADAPTING).start()
    daemon.teach(lesson(["card", "weather", "music", "food", "health", "sport", "garden"], 40))
    version = daemon.domain()["version"]
    daemon.post("text/adapt", {"wait": False})
    until(lambda: (daemon.domain()["adapting"] or {}).get("stage") == "training", "it trains", 120.0, 0.01)
    assert list(daemon.paths.jobs.rglob("rows.safetensors"))
    assert daemon.post("text/forget", {"label": "garden"})["removed"]["learned"] == 40
    assert list(daemon.paths.jobs.iterdir()) == [] and daemon.domain()["adapting"] is None
    assert daemon.domain()["version"] == version and daemon.rows("SELECT * FROM version WHERE kind = 'candidate'") == []
    assert daemon.post("text/adapt", {"wait": True})["version"] > version


def test_kill_9_amid_a_forget_leaves_all_of_it_or_nothing(make: Make) -> None:
    daemon, noted = make().start(), "SELECT 1 FROM store WHERE key LIKE 'forget:%'"
    for life in range(3):
        daemon.teach(lesson(["card", "weather"], 15, prefix=f"{life}-"))
        daemon.teach(lesson(["music", "food"], 15, source="theirs"))
        asking = threading.Thread(target=_quietly, args=(daemon,))
        asking.start()
        if life:  # after the commit, amid the rest
            until(lambda: daemon.rows(noted), "the transaction has committed", every_s=0.001)
        daemon.crash()
        asking.join(60)
        left = daemon.rows("SELECT count(*) FROM event WHERE source = 'theirs'")[0][0]
        rows = daemon.rows("SELECT count(*) FROM learned l JOIN event e ON e.seq = l.event WHERE e.source = 'theirs'")[0][0]
        assert left == rows and (left in (0, 30) if not life else left == 0)
        daemon.start()
        assert daemon.rows(noted) == [] and daemon.domain()["memory"] == 30 * (life + 1) + left
        assert daemon.domain()["labels"] == (4 if left else 2)
        assert daemon.post("text/forget", {"source": "theirs"})["removed"]["event"] == left


def test_what_comes_while_it_is_forgotten_is_forgotten_or_learned_wholly(shared: Daemon, domain: str) -> None:
    over, failed = threading.Event(), []

    def load(number: int) -> None:
        turn = 0
        while not over.is_set():
            turn += 1
            events = lesson(["card", "music"], 4, source="theirs", prefix=f"{number}-{turn}-")
            for path, body in (("events", events), ("predict", {"inputs": [{"text": f"{turn} {number}", "source": "theirs"}]})):
                status, document = shared.ask("POST", f"/v1/{domain}/{path}", body)
                if status not in (200, 202) or document.get("rejected"):
                    failed.append(document)

    shared.teach(lesson(["food"], 3), domain)
    loading = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in loading:
        thread.start()
    try:
        gone = [shared.post(f"{domain}/forget", {"source": "theirs"})["removed"]["event"] for _ in range(4)]
    finally:
        over.set()
        for thread in loading:
            thread.join(60)
    assert failed == [] and sum(gone) > 20
    shared.settled(domain)
    left = shared.rows("SELECT count(*) FROM learned l JOIN domain d ON d.id = l.domain WHERE d.name = ?", domain)[0][0]
    assert shared.domain(domain)["memory"] == left
    checks = shared.post(f"{domain}/forget", {"source": "theirs"})["checks"]
    assert set(checks["tables"].values()) <= {0}, checks
    until(lambda: shared.domain(domain)["memory"] == 3, "what came later is forgotten by the last one")
    for table in ("vector", "prediction", "label", "learned"):
        kept = f"SELECT count(*) FROM {table} x JOIN event e ON e.seq = x.event WHERE e.source = ''"
        assert shared.rows(kept) == [(0,)]


def _quietly(daemon: Daemon) -> Any:
    try:
        daemon.client.exchange("POST", "/v1/text/forget", {"source": "theirs"}, 60.0)
    except AdaptdError:
        return
