"""Abstention and calibration on a real daemon: what it states, what it withholds, and that it keeps both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
TOPICS = list(SUBJECTS)
CONFIG = """
[adapt]
every_labels = 0
[http]
port = 0
[learn]
abstain_error = 0.2
out_of_scope = 0.05
"""
STRANGE = ("segmentation fault in libc while linking the kernel module", "eigenvalues of a sparse symmetric matrix",
           "the senate ratified the treaty in 1648", "mitochondria produce adenosine triphosphate",
           "git rebase conflicts in the lock file", "the quarterly dividend was cut by the board")


def limits(daemon: Daemon) -> Json:
    """Return the limits in force."""
    found: Json = daemon.domain()["abstention"]["heads"]["label"]
    return found


def learn(daemon: Daemon, places: Sequence[int]) -> None:
    """Teach texts of all topics, in parts: each is answered by what was learned from those before it."""
    for place in places:
        daemon.teach([{"text": texts(topic)[place], "label": topic} for topic in TOPICS])
        daemon.settled()  # the ridge too: how well an event fits is judged by it


def judge(daemon: Daemon, places: Sequence[int]) -> list[Json]:
    """Let texts be answered and then labelled; return the answers."""
    truth = {texts(topic)[place]: topic for topic in TOPICS for place in places}
    told = daemon.predict(*truth)["predictions"]
    daemon.post("text/feedback", [{"event": one["event"], "label": label}
                                  for one, label in zip(told, truth.values(), strict=True)], 202)
    return [{**one, "truth": label} for one, label in zip(told, truth.values(), strict=True)]


def test_it_abstains_at_the_stated_rates_and_keeps_its_limits(make: Make) -> None:
    daemon = make(CONFIG).start()
    learn(daemon, range(2))
    first = daemon.predict(texts("card")[40])["predictions"][0]
    assert first["label"] is None and first["reason"].startswith("no confidence is known yet") and "card" in first["scores"]
    assert daemon.domain()["abstention"]["coverage"] is None

    learn(daemon, range(2, 26))
    daemon.settled()
    version = daemon.post("text/snapshot", {"reason": "limits known"})["version"]
    then = limits(daemon)
    assert 0 < then["abstain_error"]["limit"] < 1 and then["out_of_scope"]["limit"] > 0
    assert (then["abstain_error"]["rate"], then["out_of_scope"]["rate"]) == (0.2, 0.05)

    strange = daemon.predict(*STRANGE)["predictions"]
    assert sum(one["label"] is None for one in strange) >= len(STRANGE) - 1
    assert any(one.get("reason", "").startswith("out of scope") for one in strange) and all(one["scores"] for one in strange)

    told = judge(daemon, range(26, 36))
    given = [one for one in told if one["label"] is not None]
    found = daemon.domain()["abstention"]
    assert found["coverage"] == pytest.approx(len(given) / len(told)) and len(given) > len(told) / 2
    assert found["error"] == pytest.approx(sum(one["label"] != one["truth"] for one in given) / len(given))
    assert found["error"] <= 0.2 and "answered" in daemon.cli("status")
    later = limits(daemon)
    assert later != then

    daemon.settled()
    daemon.restart()
    assert (limits(daemon), daemon.domain()["abstention"]) == (later, found)
    daemon.post("text/rollback", {"to": version, "reason": "back"})
    assert limits(daemon) == then


def test_an_answer_is_given_whatever_its_confidence_where_nothing_else_is_asked_for(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather"], 20), domain)
    assert shared.predict(*STRANGE, domain=domain)["predictions"][0]["label"] in ("card", "weather")
    assert shared.domain(domain)["abstention"] is None


def test_a_label_for_what_is_out_of_scope_is_a_class_like_any_other(shared: Daemon, domain: str) -> None:
    shared.teach([*lesson(["card", "weather"], 20), *({"text": text, "label": "other"} for text in STRANGE[:5])], domain)
    assert shared.predict(STRANGE[0], domain=domain)["predictions"][0]["label"] == "other"


def test_status_tells_how_far_confidence_lies_from_accuracy(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather", "music"], 4), domain)
    assert shared.domain(domain)["calibration"] is None
    truth = {text: label for label in ("card", "weather", "music", "food") for text in texts(label)[10:25]}
    told = shared.predict(*truth, domain=domain)["predictions"]
    shared.post(f"{domain}/feedback", [{"event": one["event"], "label": label}
                                       for one, label in zip(told, truth.values(), strict=True)], 202)
    right = [one["label"] == label for one, label in zip(told, truth.values(), strict=True)]
    said = [one["confidence"] for one in told]
    found = until(lambda: shared.domain(domain)["calibration"], "answers are judged")
    assert found["brier"] == pytest.approx(sum((c - r) ** 2 for c, r in zip(said, right, strict=True)) / len(said), rel=0.05)
    bins = {int(c * 15): [r for s, r in zip(said, right, strict=True) if int(s * 15) == int(c * 15)] for c in said}
    assert sorted(one["accuracy"] for one in found["bins"]) == pytest.approx(
        sorted(sum(rights) / len(rights) for rights in bins.values()), abs=0.02)
    assert 0 <= found["ece"] <= 1
