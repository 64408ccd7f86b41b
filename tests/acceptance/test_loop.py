"""The loop on a real daemon: events come in, are answered, taught at once, corrected, held, followed, explained."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon, Json, lesson, texts, until

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
FEED = """
[adapt]
every_labels = 0
[feeds.tickets]
kind = "jsonl"
domain = "text"
options = { path = "tickets.jsonl", poll_s = 0.05 }
"""
ASKED = ("where did I put my card?", "will it rain on sunday?", "play that jazz album")


def answer(daemon: Daemon, text: str, domain: str, **options: Any) -> Any:
    """Return the label that a text is answered with."""
    return daemon.predict(text, domain=domain, **options)["predictions"][0]["label"]


def test_a_label_that_comes_with_its_event_is_used_by_the_next_prediction(shared: Daemon, domain: str) -> None:
    for label in ("card", "weather", "music", "food"):
        done = shared.teach([{"text": texts(label)[0], "label": label}], domain)
        assert answer(shared, texts(label)[0], domain) == label
        told = shared.predict(texts(label)[0], domain=domain, min_seq=done["seq"])
        assert told["predictions"][0]["label"] == label and told["seq"] >= done["seq"]


def test_every_client_sees_its_own_label_after_its_202_while_others_teach(shared: Daemon, domain: str) -> None:
    wrong: list[tuple[str, Any]] = []

    def teach(number: int) -> None:
        for turn in range(5):
            label = f"label {number}-{turn}"
            text = f"{texts('card')[number]} {texts('garden')[turn]} number {number}{turn}{number}"
            shared.teach([{"text": text, "label": label}], domain)
            if (said := answer(shared, text, domain)) != label:
                wrong.append((label, said))

    threads = [threading.Thread(target=teach, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    found = shared.domain(domain)
    assert (found["labels"], found["memory"], found["learn_lag"]) == (30, 30, 0)


def test_feedback_finds_its_event_by_answer_or_by_source_and_id(shared: Daemon, domain: str) -> None:
    told = shared.post(f"{domain}/predict", {"inputs": [{"text": texts("card")[0]},
                                                        {"text": texts("food")[0], "source": "crm", "id": 42}]})
    event = told["predictions"][0]["event"]
    done = shared.post(f"{domain}/feedback", {"event": event, "label": "card"}, 202)
    assert (done["accepted"], done["events"]) == (1, [event])
    shared.post(f"{domain}/feedback", {"source": "crm", "id": "42", "label": "food"}, 202)
    assert (answer(shared, texts("card")[1], domain), answer(shared, texts("food")[1], domain)) == ("card", "food")


def test_the_same_feedback_again_is_a_no_op_and_another_one_corrects(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["weather", "music"], 3), domain)
    event = shared.teach([{"text": texts("card")[0], "label": "musik"}], domain)["events"][0]
    again = shared.post(f"{domain}/feedback", {"event": event, "label": "musik"}, 202)
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert answer(shared, texts("card")[0], domain) == "musik"
    shared.post(f"{domain}/feedback", {"event": event, "label": "card"}, 202)
    assert answer(shared, texts("card")[0], domain) == "card"
    found = shared.domain(domain)
    assert (found["memory"], found["labels"]) == (7, 3)  # "musik" is no answer any more
    shared.post(f"{domain}/feedback", {"event": event, "label": "musik"}, 202)  # and back
    assert answer(shared, texts("card")[0], domain) == "musik" and shared.domain(domain)["memory"] == 7
    shown = shared.ask("GET", f"/v1/{domain}/explain/{event}")[1]
    assert [one["label"] for one in shown["labels"]] == ["musik", "card", "musik"]


def test_an_event_that_comes_again_is_a_duplicate_and_its_first_label_is_learned(shared: Daemon, domain: str) -> None:
    event = {"text": texts("card")[0], "id": "a"}
    first = shared.teach([event], domain)
    again = shared.teach([event, event], domain)
    assert (again["accepted"], again["duplicates"], again["events"]) == (0, 2, first["events"] * 2)
    labelled = shared.teach([{**event, "label": "card"}], domain)
    assert (labelled["accepted"], labelled["events"]) == (1, first["events"])  # that is feedback
    assert answer(shared, texts("card")[0], domain) == "card"
    assert shared.teach([{**event, "label": "card"}], domain)["duplicates"] == 1
    assert shared.teach([{**event, "source": "crm"}], domain)["accepted"] == 1  # another source, another event
    assert shared.domain(domain)["memory"] == 1


def test_an_id_twice_in_a_batch_counts_once(shared: Daemon, domain: str) -> None:
    done = shared.teach([{"text": texts("card")[0], "id": "x"}, {"text": texts("card")[0], "id": "x", "label": "card"}], domain)
    assert done["accepted"] == 2 and len(set(done["events"])) == 1  # an event, and the feedback to it
    assert shared.domain(domain)["memory"] == 1
    until(lambda: shared.domain(domain)["events"] == 1, "one event")


def test_prequential_accuracy_is_the_share_of_right_answers_that_were_given(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather", "music"], 4), domain)
    assert shared.domain(domain)["accuracy"]["prequential"] is None  # nothing answered was labelled yet
    truth = {text: label for label in ("card", "weather", "music", "food") for text in texts(label)[10:25]}
    told = shared.predict(*truth, domain=domain)["predictions"]
    right = [one["label"] == label for one, label in zip(told, truth.values(), strict=True)]
    shared.post(f"{domain}/feedback", [{"event": one["event"], "label": label}
                                       for one, label in zip(told, truth.values(), strict=True)], 202)
    assert 0 < sum(right) < len(right)
    found = shared.domain(domain)
    assert found["accuracy"]["prequential"] == pytest.approx(sum(right) / len(right))
    assert found["answered_and_labelled"] == len(right)


def test_an_answer_names_what_it_rests_on(shared: Daemon, domain: str) -> None:
    shared.teach([{"text": text, "label": label, "source": f"teacher of {label}"}
                  for label in ("card", "weather") for text in texts(label)[:6]], domain)
    told = shared.predict("I lost my debit card", domain=domain, explain=True)["predictions"][0]
    best = told["evidence"][0]
    assert told["label"] == best["label"] == "card" and best["source"] == "teacher of card"
    assert best["text"] in texts("card") and 0 < best["weight"] <= 1
    shown = until(lambda: (s := shared.ask("GET", f"/v1/{domain}/explain/{told['event']}")[1])["answers"] and s, "it is stored")
    assert shown["answers"][0]["labels"] == {"label": "card"} and shown["payload"] == {"text": "I lost my debit card"}
    assert shown["now"]["evidence"][0]["event"] == best["event"]
    found = shared.post(f"{domain}/memory/search", {"text": "rain", "k": 3})["results"]
    assert [one["label"] for one in found] == ["weather"] * 3
    assert [one["similarity"] for one in found] == sorted((one["similarity"] for one in found), reverse=True)


def test_an_answer_adds_up_and_says_what_it_cost(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card", "weather", "music"], 2), domain)
    told = shared.predict(*texts("card")[:5], domain=domain)["predictions"]
    for one in told:
        assert one["scores"][one["label"]] == max(one["scores"].values()) == one["confidence"]
        assert sum(one["scores"].values()) == pytest.approx(1.0, abs=1e-4)
        assert one["cost"]["batch"] >= 1 and one["cost"]["work_ms"] > 0


def test_labels_of_a_held_source_wait_and_those_of_others_do_not(shared: Daemon, domain: str) -> None:
    shared.post(f"{domain}/hold", {"source": "bad", "reason": "poison"})
    held = shared.teach(lesson(["card"], 3, prefix="b", source="bad"), domain)
    assert (held["accepted"], held["held"]) == (3, 3)
    good = shared.teach(lesson(["music"], 3, source="good"), domain)
    assert (good["accepted"], good["held"]) == (3, 0)
    assert answer(shared, texts("card")[0], domain) == "music"
    assert shared.domain(domain)["held"] == ["bad"]
    shared.post(f"{domain}/hold", {"reason": "freeze"})
    assert shared.teach(lesson(["music"], 1, source="good"), domain)["held"] == 1
    assert shared.post(f"{domain}/resume")["learned"] == 1  # the bad source waits still
    assert shared.domain(domain)["memory"] == 4
    assert shared.post(f"{domain}/resume", {"source": "bad"})["learned"] == 3
    found = shared.domain(domain)
    assert (found["memory"], found["labels"], found["held"]) == (7, 2, [])
    assert answer(shared, texts("card")[0], domain) == "card"


def test_adaptation_on_hold_is_refused_until_resume(shared: Daemon, domain: str) -> None:
    shared.post(f"{domain}/hold", {"what": "adaptation"})
    status, document = shared.ask("POST", f"/v1/{domain}/adapt", {"wait": True})
    assert (status, document["error"]["code"]) == (409, "conflict") and "resume" in document["error"]["hint"]
    assert shared.domain(domain)["adaptation_held"] is True
    shared.post(f"{domain}/resume", {"what": "adaptation"})
    done = shared.post(f"{domain}/adapt", {"wait": True})
    assert done["verdict"] == "undecided" and "0 learned labels" in done["reasons"][0]


def test_what_happens_is_told_to_the_history(shared: Daemon, domain: str) -> None:
    shared.post(f"{domain}/hold", {"reason": "freeze"})
    shared.post(f"{domain}/resume", {"reason": "thaw"})
    shared.post(f"{domain}/snapshot", {"reason": "quiet"})
    told = shared.ask("GET", f"/v1/history?domain={domain}")[1]["actions"]
    assert [(one["what"], one["reason"]) for one in told][:3] == [("snapshot", "quiet"), ("resume-learning", "thaw"),
                                                                 ("hold-learning", "freeze")]


def test_the_command_line_goes_the_whole_way(shared: Daemon, domain: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lesson(["card", "weather"], 10)))
    shared.cli("ingest", str(file), "--domain", domain)
    shared.cli("ingest", str(file), "--domain", domain)  # the same file again teaches nothing twice
    assert shared.domain(domain)["memory"] == 20
    told = json.loads(shared.cli("predict", "I lost my debit card", "--domain", domain, "--json"))
    event = told["predictions"][0]["event"]
    assert told["predictions"][0]["label"] == "card"
    shared.cli("feedback", event, "lost card", "--domain", domain)
    assert shared.domain(domain)["labels"] == 3
    number = json.loads(shared.cli("snapshot", "--domain", domain, "--json"))["version"]
    assert json.loads(shared.cli("rollback", "--to", str(number), "--domain", domain, "--json"))["version"] == number
    shared.cli("resume", "--domain", domain)
    assert json.loads(shared.cli("status", "--json"))["domains"][domain]["version"] == number


def test_a_followed_file_is_read_as_it_grows_over_restart_and_rotation(make: Make) -> None:
    daemon = make(FEED)
    file = daemon.folder / "tickets.jsonl"
    lines = [json.dumps(one) + "\n" for one in lesson(["card", "weather"], 10)]
    file.write_text("".join(lines[:4]) + lines[4][:20])  # the fifth is being written
    daemon.start()

    def holds(rows: int) -> None:
        until(lambda: daemon.domain()["memory"] == rows, f"{rows} rows: {daemon.status()}")

    holds(4)
    assert daemon.status()["feeds"]["tickets"]["state"] == "running"
    with file.open("a") as stream:
        stream.write(lines[4][20:] + "no json\n" + '{"label": "card"}\n' + '["list"]\n' + lines[5])
    holds(6)
    feed = daemon.status()["feeds"]["tickets"]
    assert (feed["errors"], feed["lag"]) == (3, 0) and "feed_rejected" in daemon.problems()
    assert daemon.rows("SELECT raw FROM dead ORDER BY id") == [(b"no json\n",), (b'["list"]\n',), (b'{"label": "card"}\n',)]
    assert daemon.rows("SELECT DISTINCT source FROM event") == [("tickets",)]

    assert daemon.stop() == 0
    with file.open("a") as stream:
        stream.write("".join(lines[6:8]))
    daemon.start()
    holds(8)
    daemon.ask("POST", "/v1/feeds/tickets/pause")
    file.rename(file.with_suffix(".jsonl.1"))
    file.write_text("".join(lines[8:]))
    assert daemon.status()["feeds"]["tickets"]["state"] == "paused"
    daemon.ask("POST", "/v1/feeds/tickets/resume")
    holds(20)
    until(lambda: daemon.domain()["events"] == 20, "the counts are read anew")
    daemon.kill()
    daemon.start()
    until(lambda: daemon.status()["feeds"]["tickets"]["lag"] == 0, "the feed is at its end")
    assert (daemon.domain()["events"], daemon.domain()["memory"]) == (20, 20)  # nothing twice


def _figures(daemon: Daemon) -> Json:
    found = daemon.domain()
    return {key: found[key] for key in ("version", "labels", "events", "labelled", "memory", "accuracy", "held", "calibration",
                                        "answered_and_labelled", "drift", "parent", "promoted_at")}


def test_a_restart_goes_on_where_it_stopped(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(["card", "weather", "music"], 25))
    told = daemon.predict(*texts("card")[30:40], *texts("food")[:3])["predictions"]
    daemon.post("text/feedback", [{"event": one["event"], "label": "card"} for one in told[:10]], 202)
    daemon.post("text/feedback", {"event": told[0]["event"], "label": "plastic"}, 202)
    daemon.post("text/hold", {"source": "bad"})
    daemon.teach(lesson(["sport"], 2, source="bad"))
    until(lambda: daemon.rows("SELECT count(*) FROM prediction") == [(13,)], "the answers are stored")
    daemon.settled()
    scores = daemon.scores(ASKED)
    figures = until(lambda: (f := _figures(daemon))["events"] == 93 and f, "the counts are read anew")
    daemon.restart()
    assert daemon.scores(ASKED) == scores
    until(lambda: _figures(daemon) == {**figures, "events": 96}, "the figures are those from before")
    daemon.teach(lesson(["garden"], 1))
    assert answer(daemon, texts("garden")[1], "text") == "garden"
    daemon.kill()  # no checkpoint of this: the journal's tail is learned again before it is ready
    daemon.start()
    assert answer(daemon, texts("garden")[1], "text") == "garden"
    assert [label for label, _ in daemon.scores(ASKED)] == [label for label, _ in scores]
    found = _figures(daemon)
    assert (found["memory"], found["labels"], found["held"]) == (figures["memory"] + 1, figures["labels"] + 1, ["bad"])
    assert found["accuracy"]["prequential"] == figures["accuracy"]["prequential"]
    assert daemon.post("text/resume", {"source": "bad"})["learned"] == 2
