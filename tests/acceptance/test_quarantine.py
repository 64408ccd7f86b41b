"""Quarantine on a real daemon: a poisoned source is set aside and named, an honest one never; admitted, dropped, restarted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
TOPICS = list(SUBJECTS)
ON = """
[adapt]
every_labels = 0
[http]
port = 0
"""
FLIPPED = 0.3
BATCH = 16


def labelled(source: str, places: Sequence[int], flipped: float, seed: int = 1) -> list[Json]:
    """Return events of a source in random order; a share of the labels is another topic's."""
    chooser = random.Random(seed)
    found = [{"text": texts(topic)[place], "label": topic, "source": source} for place in places for topic in TOPICS]
    chooser.shuffle(found)
    return [{**one, "label": chooser.choice([t for t in TOPICS if t != one["label"]])} if chooser.random() < flipped else one
            for one in found]


def following(topic: str) -> str:
    return TOPICS[(TOPICS.index(topic) + 1) % len(TOPICS)]


def quarantine(daemon: Daemon) -> list[Json]:
    return [one for one in daemon.status()["problems"] if one["code"] == "quarantine"]


def rows(daemon: Daemon, source: str) -> int:
    """Return how many rows are alive that a source taught."""
    return int(daemon.rows("SELECT count(*) FROM learned l WHERE source = ? AND NOT EXISTS "
                           "(SELECT 1 FROM death d WHERE d.row = l.id)", source)[0][0])


def waiting(daemon: Daemon, held: int = 1) -> int:
    return int(daemon.rows("SELECT count(*) FROM label WHERE source = 'intern' AND held = ?", held)[0][0])


def poisoned(daemon: Daemon) -> list[Json]:
    """Let desk and crm teach, then the intern with flipped labels beside the crm, until it is held; return what it sent."""
    daemon.teach(labelled("desk", range(30), 0.0))
    sent: list[Json] = []
    crm = labelled("crm", range(25, 50), 0.0)
    intern = labelled("intern", range(50), FLIPPED)
    while not daemon.domain()["held"]:
        assert len(sent) < len(intern), f"never held: {daemon.status()['problems']}"
        part, beside = intern[len(sent):len(sent) + BATCH], crm[len(sent) % 192:len(sent) % 192 + 8]
        daemon.teach([one for pair in zip(part, [*beside, *beside], strict=True) for one in pair])
        sent += part
    return sent


@pytest.fixture(scope="module")
def drilled() -> Iterator[tuple[Daemon, list[Json]]]:
    """Return a daemon whose intern was held, and what the intern had sent by then."""
    with Daemon(ON) as daemon:
        yield daemon, poisoned(daemon.start())


def test_the_drill(drilled: tuple[Daemon, list[Json]]) -> None:
    """A source with 30 % flipped labels is held and named; what it taught waits; others go on; admitted, it is learned."""
    daemon, sent = drilled
    [problem] = quarantine(daemon)
    assert daemon.domain()["held"] == ["intern"]
    assert "'intern'" in problem["message"] and "adaptd resume --domain text --source intern --drop" in problem["hint"]
    [line] = [one for one in daemon.ask("GET", "/v1/history")[1]["actions"] if one["what"] == "quarantine"]
    evidence = line["detail"]
    print(f"held after {len(sent)} labels: {problem['message']}; {evidence}")
    assert (line["actor"], evidence["source"]) == ("adaptd", "intern") and evidence["against"] > 0.15 * evidence["labels"]
    assert evidence["set_aside"] == waiting(daemon) and rows(daemon, "intern") == len(sent) - waiting(daemon)

    more = labelled("intern", [3], FLIPPED, seed=9)
    assert daemon.teach(more)["held"] == len(more)
    assert daemon.teach([{"text": "is there any news of the storm?", "label": "weather", "source": "crm"}])["held"] == 0

    def memory() -> Json:
        return daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]["labels"]  # type: ignore[no-any-return]

    before, answers = memory(), daemon.scores(["any news of my flight?", "the soup is cold"])
    daemon.crash()
    daemon.start()
    assert (memory(), [label for label, _ in daemon.scores(["any news of my flight?", "the soup is cold"])]) == (
        before, [label for label, _ in answers])
    assert quarantine(daemon) == [problem] and daemon.domain()["held"] == ["intern"]

    waited = waiting(daemon)
    done = daemon.post("text/resume", {"source": "intern", "reason": "it was right"})
    assert done["learned"] == waited and rows(daemon, "intern") == len(sent) + len(more)
    assert quarantine(daemon) == [] and daemon.domain()["held"] == []  # what was admitted is not judged again
    assert daemon.restart().domain()["held"] == []


def test_a_flood_of_wrong_labels_in_one_request_is_set_aside_before_it_is_answered_with_and_dropped(make: Make) -> None:
    daemon = make(ON).start()
    daemon.teach(labelled("desk", range(30), 0.0))
    asked = ["any news of my flight?", "the soup is cold", "a melody for the piano"]
    before = daemon.scores(asked)
    wrong = [{**one, "label": following(one["label"])} for one in labelled("intern", range(50), 0.0)]
    assert daemon.teach(wrong)["held"] == len(wrong)
    after = daemon.scores(asked)
    assert [label for label, _ in after] == [label for label, _ in before] and rows(daemon, "intern") == 0
    said = daemon.cli("resume", "--source", "intern", "--drop", "--reason", "shuffled")
    assert f"{len(wrong)} labels that waited are dropped" in said
    assert (waiting(daemon), waiting(daemon, 3), rows(daemon, "intern")) == (0, len(wrong), 0)
    assert quarantine(daemon) == [] and daemon.post("text/replay", {"since": 0}) == {"relearned": 0, "skipped": 0}
    assert daemon.teach([{"text": "a new song", "label": "music", "source": "intern"}])["held"] == 0


def test_wrong_corrections_are_set_aside_and_what_they_corrected_holds_again(make: Make) -> None:
    daemon = make(ON).start()
    taught = labelled("desk", range(30), 0.0)
    events = daemon.teach([{**one, "source": "desk"} for one in taught])["events"]
    wrong = [{"event": event, "label": following(one["label"])} for event, one in list(zip(events, taught, strict=True))[:60]]
    counts = daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]["labels"]
    done = daemon.post("text/feedback", wrong, 202)
    until(lambda: daemon.domain()["held"] == ["http"], "the corrector is held")
    assert done["held"] == len(wrong) and daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]["labels"] == counts


def test_a_stores_only_source_and_labels_that_are_new_are_never_held(make: Make) -> None:
    daemon = make(ON).start()
    assert daemon.teach(labelled("only", range(40), 0.5))["held"] == 0  # whatever it says, nobody else taught
    assert (daemon.domain()["held"], quarantine(daemon)) == ([], [])


def test_new_labels_of_a_new_source_for_what_others_call_otherwise_are_never_held(make: Make) -> None:
    daemon = make(ON).start()
    daemon.teach(labelled("desk", range(30), 0.0))
    daemon.teach(labelled("crm", range(30), 0.0))
    split = [{**one, "label": f"{one['label']}, urgent"} for one in labelled("newcomer", range(50), 0.0)]
    assert daemon.teach(split)["held"] == 0
    daemon.teach(lesson(TOPICS, 20, source="crm"))
    assert (daemon.domain()["held"], quarantine(daemon)) == ([], [])
