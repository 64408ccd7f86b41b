"""Experiences that nobody would choose, and trainings that go wrong: the champion answers on, the verdict says what happened."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Sequence

import psutil
import pytest

from tests.acceptance.daemon import ADAPTING, SUBJECTS, Daemon, Json, lesson, texts, until
from tests.acceptance.test_faults import trainer

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
OLD, NEW = list(SUBJECTS)[:4], list(SUBJECTS)[4:]
ASKED = [texts(label)[45] for label in OLD]
JUDGED = ("promote", "reject", "undecided")


def right(daemon: Daemon, labels: Sequence[str]) -> int:
    asked = [(texts(label)[place], label) for label in labels for place in range(40, 50)]
    said = daemon.predict(*(text for text, _ in asked))["predictions"]
    return sum(one["label"] == label for one, (_, label) in zip(said, asked, strict=True))


def over(daemon: Daemon, before: Json | None = None) -> Json:
    """Wait for another verdict than the one before; return it."""
    until(lambda: daemon.domain()["last_verdict"] != before, "it is over", 280.0)
    found: Json = daemon.domain()["last_verdict"]
    return found


def adapted(daemon: Daemon, events: Sequence[Json]) -> Json:
    """Teach an experience and adapt to it; return what the training had."""
    if events:
        daemon.teach(events)
    before = daemon.domain()["last_verdict"]
    daemon.post("text/adapt", {"wait": False})
    done = over(daemon, before)
    assert done["verdict"] in JUDGED and done["reasons"] and done["started"] == "on demand"
    assert list(daemon.paths.jobs.iterdir()) == [] and "adaptation_failed" not in daemon.problems()
    [(metrics,)] = daemon.rows("SELECT metrics FROM version WHERE number = ?", done["version"])
    found: Json = json.loads(metrics)["training"]
    return found


@pytest.fixture
def daemon(make: Make) -> Daemon:
    daemon = make(ADAPTING.replace("[adapt]", "[adapt]\nmin_labels = 50")).start()
    daemon.teach(lesson(OLD, 30))
    return daemon


@pytest.mark.slow
def test_an_experience_of_one_class_and_one_of_a_single_example(make: Make) -> None:
    # which one would be held out is chance
    none_held_out = ADAPTING.replace("[adapt]", "[holdout]\nshare = 0.0\n[adapt]\nmin_labels = 50")
    daemon = make(none_held_out).start()
    daemon.teach(lesson(OLD, 30))
    before = right(daemon, OLD)
    adapted(daemon, [])
    assert adapted(daemon, [{"text": text, "label": OLD[0]} for text in texts(OLD[0])[30:40]])["new"] == 10
    before_it = daemon.domain()["last_verdict"]
    daemon.post("text/adapt", {"wait": False})  # nothing new: no child is needed to say so
    done = over(daemon, before_it)
    assert done["verdict"] == "undecided" and "no label was learned since" in done["reasons"][0]
    assert adapted(daemon, [{"text": text, "label": OLD[1]} for text in texts(OLD[1])[30:31]])["new"] == 1
    assert right(daemon, OLD) >= before - 4


@pytest.mark.slow
def test_an_experience_of_nothing_but_noise(daemon: Daemon) -> None:
    before, chance = right(daemon, OLD), random.Random(0)
    noise = [{"text": f"{chance.getrandbits(64):x} {chance.getrandbits(64):x}", "label": chance.choice(OLD)} for _ in range(60)]
    assert adapted(daemon, noise)["new"] > 50
    assert right(daemon, OLD) >= before - 8


@pytest.mark.slow
def test_a_label_set_that_doubles_amid_an_adaptation(daemon: Daemon) -> None:
    before = right(daemon, OLD)
    daemon.post("text/adapt", {"wait": False})
    until(lambda: trainer(daemon), "it trains", 120.0)
    daemon.teach(lesson(NEW, 30))  # of which the candidate knows nothing
    assert right(daemon, NEW) >= 30
    assert over(daemon)["verdict"] in JUDGED
    assert right(daemon, NEW) >= 30
    adapted(daemon, [])
    assert right(daemon, OLD) + right(daemon, NEW) >= before + 30


def failed(daemon: Daemon, words: str, tries: int) -> None:
    """Check what is said of an adaptation that failed, and that nothing is left of it."""
    verdict = over(daemon)
    assert verdict["verdict"] == "failed" and words in verdict["reasons"][0] and verdict["started"] == "on demand"
    assert words in daemon.problems()["adaptation_failed"] and list(daemon.paths.jobs.iterdir()) == []
    assert trainer(daemon) is None and daemon.domain()["next_adaptation"]["backed_off"] == 2**tries


@pytest.mark.slow
def test_a_training_that_diverges_leaves_nothing_for_the_next(make: Make) -> None:
    daemon = make(ADAPTING.replace("steps = 16", "steps = 16, learning_rate = 1e30")).start()
    daemon.teach(lesson(list(SUBJECTS), 40))
    then, version = daemon.scores(ASKED), daemon.domain()["version"]
    daemon.post("text/adapt", {"wait": False})
    failed(daemon, "not finite", 1)
    assert (daemon.scores(ASKED), daemon.domain()["version"]) == (then, version)
    daemon.configure(ADAPTING)
    daemon.restart()
    assert daemon.domain()["next_adaptation"]["backed_off"] == 2  # a start does not forget it
    adapted(daemon, [])  # as if nothing had been


@pytest.mark.slow
def test_a_training_that_hangs_is_ended(make: Make) -> None:
    daemon = make(ADAPTING.replace("steps = 16 }", "steps = 10000000 }\ntime_limit_s = 60.0")).start()
    daemon.teach(lesson(list(SUBJECTS), 40))
    then, version = daemon.scores(ASKED), daemon.domain()["version"]
    daemon.post("text/adapt", {"wait": False})
    child: psutil.Process = until(lambda: trainer(daemon), "it trains", 120.0)
    child.send_signal(signal.SIGSTOP)
    failed(daemon, "training took longer than 60 s", 1)
    assert (daemon.scores(ASKED), daemon.domain()["version"]) == (then, version)
