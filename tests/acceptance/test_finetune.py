"""What translates is trained in a real daemon: judged, made live, kept over a restart, rolled back, and retired by a forget."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.daemon import Daemon, until
from tests.acceptance.translation import CONFIG, PAIRS, writer

pytestmark = pytest.mark.acceptance
# What is remembered is not looked at (trust = 0), so that what a text is written with shows; a few pairs are enough to judge.
TRAINING = CONFIG.replace("beams = 2", "beams = 1\ntrust = 0\nepochs = 20\nrate = 5e-3").replace(
    "every_labels = 0", "every_labels = 0\nmin_labels = 20") + """
[holdout]
share = 0.3
after = 5
[gate.options]
min_rows = 20
min_class = 10
"""
TERMS = {"hund": "vierbeiner", "katze": "frau", "kind": "mann", "läuft": "spielt", "sitzt": "steht", "schnee": "park"}
ASKED = [(source, target) for source, target in PAIRS if source in (
    "the dog sleeps in the park", "a woman sits at the beach", "the cat plays in the snow", "a man runs on the street")]


def termed(text: str) -> str:
    """Return a translation with a customer's words."""
    return " ".join(TERMS.get(word, word) for word in text.split())


OTHERS = [pair for pair in PAIRS if pair not in ASKED]
LEARNED, LATER = OTHERS[:-1], OTHERS[-1:]
AS_IT_IS, TRAINED = [target for _, target in ASKED], [termed(target) for _, target in ASKED]


def answers(daemon: Daemon) -> list[str]:
    """Return how the sentences are translated that nobody taught."""
    found = daemon.post("translate/predict", {"inputs": [{"text": source} for source, _ in ASKED]})["predictions"]
    return [one["label"] for one in found]


def teach(daemon: Daemon, pairs: list[tuple[str, str]]) -> None:
    daemon.teach([{"text": source, "label": termed(target), "id": source} for source, target in pairs], "translate")


def stage(daemon: Daemon) -> str:
    """Return what an adaptation does."""
    return str((daemon.domain("translate")["adapting"] or {}).get("stage", ""))


@pytest.fixture(scope="module")
def daemon(translation_model: Path) -> Iterator[Daemon]:
    with Daemon(TRAINING) as made:
        (made.folder / "model").symlink_to(translation_model)
        yield made.start()


@pytest.fixture(scope="module")
def promoted(daemon: Daemon) -> int:
    """Return the version that was trained and went live, while it was asked for answers."""
    assert answers(daemon) == AS_IT_IS
    teach(daemon, LEARNED)
    assert answers(daemon) == AS_IT_IS, "nothing of it is looked at"
    with ThreadPoolExecutor() as beside:
        running, seen = beside.submit(daemon.post, "translate/adapt", {"wait": True}), list[list[str]]()
        until(lambda: seen.append(answers(daemon)) or running.done(), "it is over", 300.0, 0.5)  # it gives way to who asks
    done = running.result()
    assert done["verdict"] == "promote", done
    assert all(one in (AS_IT_IS, TRAINED) for one in seen) and seen[0] == AS_IT_IS, "each with one version, and none fails"
    assert answers(daemon) == TRAINED, "in the answers from then on"
    return int(done["version"])


def test_it_goes_live_by_its_verdict_over_pairs_that_it_was_never_shown(daemon: Daemon, promoted: int) -> None:
    metrics = json.loads(daemon.rows("SELECT metrics FROM version WHERE number = ?", promoted)[0][0])
    held = daemon.rows("SELECT COUNT(*) FROM learned WHERE holdout = 1")[0][0]
    assert metrics["holdout_rows"] == held and metrics["training"]["rows"] == len(LEARNED) - held
    assert metrics["holdout"]["candidate"] > metrics["holdout"]["champion"]
    assert list(daemon.paths.jobs.iterdir()) == [], "no text is left of what was learned"
    assert daemon.domain("translate")["probation"] is None, "texts are not written twice"
    daemon.cli("rebuild", str(promoted), "--domain", "translate", expect=1)


def test_it_stays_over_a_restart_and_goes_and_comes_with_its_version(daemon: Daemon, promoted: int) -> None:
    assert answers(daemon.restart()) == TRAINED
    writer(daemon).kill()
    until(lambda: daemon.ask("POST", "/v1/translate/predict", {"inputs": [{"text": ASKED[0][0]}]})[0] == 200, "it writes again")
    assert answers(daemon) == TRAINED
    parent = daemon.rows("SELECT parent FROM version WHERE number = ?", promoted)[0][0]
    daemon.post("translate/rollback", {"to": parent})
    assert answers(daemon) == AS_IT_IS
    daemon.post("translate/rollback", {"to": promoted})
    assert answers(daemon) == TRAINED
    daemon.post("translate/resume", {"what": "learning"})
    daemon.cli("verify")


def test_one_that_is_worse_is_refused_though_it_was_paused_and_a_forget_retires_what_has_seen_the_record(
        daemon: Daemon, promoted: int) -> None:
    assert daemon.stop() == 0
    daemon.configure(TRAINING.replace("rate = 5e-3", "rate = 0.1"))  # of a training that spoils the model
    teach(daemon.start(), LATER)
    assert answers(daemon) == TRAINED, "the model is the same"
    daemon.post("translate/adapt", {"wait": False})
    until(lambda: stage(daemon) == "training", "it trains")
    daemon.cli("hold", "--adaptation", "--domain", "translate")
    until(lambda: stage(daemon) == "paused", "it is paused")
    daemon.crash()
    daemon.start()
    until(lambda: stage(daemon) == "paused", "a pause outlives the daemon")
    daemon.cli("resume", "--adaptation", "--domain", "translate")
    until(lambda: not stage(daemon), "it went on", 300.0)
    worse = until(lambda: "verdict" in (last := daemon.domain("translate")["last_verdict"] or {}) and last, "judged in this life")
    assert worse["verdict"] == "reject" and "worse" in worse["reasons"][0], worse
    assert answers(daemon) == TRAINED
    event = next(event for event, held in daemon.rows(
        "SELECT e.id, l.holdout FROM learned l JOIN event e ON e.seq = l.event ORDER BY l.id") if not held)
    found = daemon.post("translate/forget", {"event": event, "reason": "their request"})
    assert {promoted, worse["version"]} <= set(found["versions"]["retired"]), found
    assert answers(daemon) == AS_IT_IS
    status, refused = daemon.ask("POST", "/v1/translate/rollback", {"to": promoted})
    assert status in (403, 409, 422) and "forgotten" in refused["error"]["message"]
    assert not (daemon.paths.versions / str(promoted) / "translation.adapter").exists()
