"""Makes a store of this adaptd's schema with data of every kind, and notes what it answered: for the upgrades' tests.

Run once at a release, with the released code (CONTRIBUTING, Release): `make test ARGS=tests/migration/make_store.py`; pytest
collects it only when it is named. It writes `stores/SCHEMA.tar.gz`, a backup, and `stores/SCHEMA.json`; neither is ever
made again. All texts are made up.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.acceptance.daemon import Daemon, Json, lesson

STORES = Path(__file__).parent / "stores"
CONFIG = """
[domains.text]
[adapt]
every_labels = 0
min_labels = 8
options = { steps = 8 }
[learn]
features = 64
[http]
port = 0
"""
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album", "a recipe for apple pie")
TOLD = ("version", "parent", "labels", "events", "labelled", "memory", "held", "adaptation_held")


def told(daemon: Daemon) -> Json:
    """Return what a store says of itself, and an upgrade must not change."""
    domain = daemon.domain()
    return {name: domain[name] for name in TOLD}


def history(daemon: Daemon) -> list[Json]:
    """Return the store's history, oldest first."""
    actions: list[Json] = daemon.ask("GET", "/v1/history?limit=1000")[1]["actions"]
    return actions[::-1]


def story(daemon: Daemon) -> Json:
    """Live through all that leaves rows of its own; return what was the case at each version that is gone back to."""
    daemon.teach(lesson(["card", "weather"], 10, prefix="crm", source="crm", subject="s-1", time=1.75e9))
    daemon.teach([{"text": "somebody's own words", "label": "private", "id": "p", "subject": "s-2", "answer": "card"}])
    asked = daemon.predict("is there a concert tonight?", "my flight was late")["predictions"]
    daemon.post("text/feedback", [{"event": one["event"], "label": label} for one, label in
                                  zip(asked, ("music", "weather"), strict=True)], 202)
    daemon.post("text/feedback", {"event": asked[1]["event"], "label": "travel"}, 202)  # a correction
    candidate = daemon.post("text/adapt", {"wait": True})["version"]
    if daemon.domain()["version"] != candidate:
        daemon.post("text/promote", {"to": candidate, "force": True, "reason": "a try"})
    daemon.post("text/forget", {"subject": "s-2", "reason": "their request"})  # the candidate, which saw it, is retired
    kept = daemon.post("text/snapshot", {"reason": "kept"})["version"]
    then = {"answers": daemon.scores(ASKED), "status": told(daemon)}
    daemon.teach(lesson(["music", "food"], 6, prefix="b"))
    daemon.post("text/rollback", {"to": kept, "reason": "another try"})
    daemon.post("text/resume")
    daemon.teach(lesson(["music"], 8, prefix="c"))
    daemon.post("text/hold", {"what": "learning", "source": "suspect", "reason": "odd labels"})
    daemon.teach([{"text": "buy now", "label": "card", "id": "x", "source": "suspect"}])
    return {str(kept): then}


def test_the_store_of_this_schema_is_made() -> None:
    with Daemon(CONFIG) as daemon:
        schema = json.loads(daemon.start().cli("db", "current", "--json"))["current"]
        file = STORES / f"{schema}.tar.gz"
        assert not file.exists(), "what was released stays as it was"
        versions = story(daemon)
        daemon.restart()
        answers = daemon.scores(ASKED)  # questions are events: the status that the store is left with comes after them
        time.sleep(1.1)  # and its counts may be a second old
        found = {"versions": versions, "live": {"answers": answers, "status": told(daemon)}, "history": history(daemon)}
        assert daemon.stop() == 0, daemon.said
        STORES.mkdir(exist_ok=True)
        daemon.cli("backup", str(file))
        file.with_name(f"{schema}.json").write_text(json.dumps(found, indent=1) + "\n")
