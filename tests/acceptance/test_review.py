"""Review on a real daemon: what is asked, that an answer takes it off the list, and what the report says of it later."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.daemon import SUBJECTS, Daemon, Json, lesson, texts

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
TOPICS = list(SUBJECTS)
KNOWN = ["card", "weather", "music"]


def listed(daemon: Daemon, domain: str = "text", query: str = "n=20") -> Json:
    status, found = daemon.ask("GET", f"/v1/{domain}/review?{query}")
    assert status == 200, found
    return found


def report(daemon: Daemon, domain: str = "text") -> Json:
    status, found = daemon.ask("GET", f"/v1/{domain}/review/report")
    assert status == 200, found
    return found


def answered(daemon: Daemon, domain: str, *asked: str) -> dict[str, str]:
    """Let texts be answered; return the event of each."""
    told = daemon.predict(*asked, domain=domain)["predictions"]
    return {text: one["event"] for text, one in zip(asked, told, strict=True)}


def sit(daemon: Daemon, domain: str, typed: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person who types."""
    command = [sys.executable, "-m", "adaptd", "review", "--domain", domain, *words, "--config", str(daemon.folder)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120)


def test_where_nothing_is_known_each_topic_is_asked_about_and_a_duplicate_once(shared: Daemon, domain: str) -> None:
    truth = {text: topic for topic in KNOWN for text in texts(topic)[:12]}
    answered(shared, domain, *truth, texts("card")[0].upper(), texts("card")[0])
    found = listed(shared, domain, "n=6")
    assert found["pool"] == len(truth) + 2 and found["teacher"] == "review"
    items = found["items"]
    assert {truth.get(one["text"], "card") for one in items} == set(KNOWN)
    assert [one["expected"] for one in items] == sorted((one["expected"] for one in items), reverse=True)
    assert all((one["label"], one["scores"], one["confidence"]) == (None, {}, 0.0) for one in items)
    assert items[0]["reason"].startswith("no label has been learned yet") and items[0]["payload"] == {"text": items[0]["text"]}
    everything = [one["text"] for one in listed(shared, domain, "n=500")["items"]]
    assert sum(text == texts("card")[0] for text in everything) <= 1


def test_a_model_that_knows_one_label_is_not_believed_to_know_everything(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card"], 12), domain)
    answered(shared, domain, *texts("travel")[:10])
    assert len(listed(shared, domain, "n=5")["items"]) == 5


def test_what_nothing_like_it_is_known_of_comes_before_what_is_known(shared: Daemon, domain: str) -> None:
    for start in range(0, 60, 6):  # in parts: what came before answers what comes, so that confidence is known to hold
        shared.teach(lesson(KNOWN, 20)[start : start + 6], domain)
    strange = texts("travel")[:10]
    answered(shared, domain, *texts("card")[20:30], *strange)
    items = listed(shared, domain)["items"]
    assert items[0]["text"] in strange and "others like it wait" in items[0]["reason"]
    assert items[0]["label"] in KNOWN and set(items[0]["scores"]) == set(KNOWN)
    assert items[0]["confidence"] == pytest.approx(max(items[0]["scores"].values()))
    known = [one for one in items if one["text"] not in strange]
    assert all(one["reason"].startswith("probably card") or "between" in one["reason"] for one in known)


def test_a_label_takes_the_event_off_the_list_and_the_report_counts_it(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(KNOWN, 12), domain)
    assert report(shared, domain) == {"teachers": [], "labels": 0, "later": None, "at_most": 500}
    first = texts("travel")[:10]
    answered(shared, domain, *first)
    items = listed(shared, domain)["items"]
    labels = [{"event": one["event"], "label": "travel", "teacher": "review:ana"} for one in items]
    done = shared.post(f"{domain}/feedback", labels, 202)
    assert done["accepted"] == len(items) > 0
    left = {one["event"] for one in listed(shared, domain, "n=500")["items"]}
    assert not left & {one["event"] for one in items}
    told = report(shared, domain)
    [ana] = told["teachers"]
    assert (ana["teacher"], ana["labels"], ana["corrected"], ana["later"]) == ("review:ana", len(items), len(items), None)
    assert told["later"] is None  # nobody else has judged an answer since

    later = {text: topic for topic in ("travel", "card") for text in texts(topic)[30:45]}
    events = answered(shared, domain, *later)
    shared.post(f"{domain}/feedback", [{"event": events[text], "label": topic} for text, topic in later.items()], 202)
    told = report(shared, domain)
    found = told["later"]
    assert found["events"] == len(later) and found["prevented"] >= 12 and found["caused"] <= 1
    assert found["net"] == found["prevented"] - found["caused"] and told["teachers"][0]["later"] == found
    before = shared.scores(texts("travel")[45:47], domain)
    assert report(shared, domain) == told and shared.scores(texts("travel")[45:47], domain) == before  # reading changes nothing


def test_each_teacher_has_its_share_of_the_report(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(["card"], 12), domain)
    for teacher, topic in (("review:ana", "travel"), ("review:bo", "garden")):
        events = answered(shared, domain, *texts(topic)[:10])
        labels = [{"event": event, "label": topic, "teacher": teacher} for event in events.values()]
        shared.post(f"{domain}/feedback", labels, 202)
    later = {text: topic for topic in ("travel", "garden") for text in texts(topic)[30:40]}
    events = answered(shared, domain, *later)
    shared.post(f"{domain}/feedback", [{"event": events[text], "label": topic} for text, topic in later.items()], 202)
    told = report(shared, domain)
    by = {one["teacher"]: one["later"] for one in told["teachers"]}
    assert set(by) == {"review:ana", "review:bo"} and all(7 <= one["prevented"] <= 12 for one in by.values())
    assert told["later"]["prevented"] >= 18


def test_what_was_forgotten_or_waits_or_has_a_label_is_never_listed(make: Make) -> None:
    daemon = make().start()
    daemon.teach(lesson(KNOWN, 5))
    events = answered(daemon, "text", *texts("travel")[:6])
    forgotten, held, labelled, *rest = events.values()
    daemon.post("text/forget", {"event": forgotten, "reason": "asked to"})
    daemon.post("text/feedback", {"event": labelled, "label": "travel"}, 202)
    daemon.post("text/hold", {"source": "review:ana"})
    assert daemon.post("text/feedback", {"event": held, "label": "travel", "teacher": "review:ana"}, 202)["held"] == 1
    found = listed(daemon, query="n=500")
    assert found["pool"] == len(rest) and {one["event"] for one in found["items"]} == set(rest)
    assert "travel" in json.dumps(found) and forgotten not in json.dumps(found)
    [ana] = report(daemon)["teachers"]
    assert (ana["labels"], ana["unlearned"]) == (1, 1)
    assert listed(daemon.restart(), query="n=500")["pool"] == len(rest)
    status, refused = daemon.ask("POST", "/v1/text/feedback", {"event": forgotten, "label": "a", "teacher": "review:ana"})
    assert status == 422 and refused["rejected"][0]["error"]["code"] == "forgotten"


@pytest.mark.parametrize("path, status, field", [
    ("d0/review?n=0", 422, "n"), ("d0/review?minutes=-3", 422, "minutes"), ("nope/review", 404, "domain"),
    ("nope/review/report", 404, "domain")])
def test_bad_questions_are_refused_with_the_field_and_the_cure(shared: Daemon, path: str, status: int, field: str) -> None:
    found, document = shared.ask("GET", f"/v1/{path}")
    assert found == status and document["error"]["field"] == field and document["error"]["hint"]


def test_a_teacher_that_is_no_name_is_refused(shared: Daemon, domain: str) -> None:
    [event] = answered(shared, domain, texts("card")[0]).values()
    for teacher, words in (("", "empty"), (5, "string"), ("a\nb", "control"), ("a" * 200, "200 characters")):
        body = {"event": event, "label": "card", "teacher": teacher}
        status, document = shared.ask("POST", f"/v1/{domain}/feedback", body)
        refused = document["rejected"][0]["error"]
        assert (status, refused["field"]) == (422, "teacher") and words in refused["message"]


def labels_of(daemon: Daemon, domain: str) -> Sequence[tuple[str, str]]:
    return [(json.loads(label), source) for label, source in daemon.rows(
        "SELECT l.label, l.source FROM label l JOIN event e ON e.seq = l.event JOIN domain d ON d.id = e.domain "
        "WHERE d.name = ? AND l.source LIKE 'review%' ORDER BY l.seq", domain)]


def test_a_person_answers_on_the_command_line(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(KNOWN, 12), domain)
    answered(shared, domain, *texts("travel")[:8], *texts("food")[:8])
    # help, a number that is none, a skip, the second label, a new label, a typing error that is not meant, the guess, the end
    done = sit(shared, domain, "?\n9\ns\n2\ntravel\ny\ntravl\nn\n\nq\n", "--source", "ana")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 labels by review:ana, 2 of them not as guessed") and "1 skipped" in done.stdout
    said = ("Ctrl-C at any time", "no label 9", "'travl' is a new label (there is 'travel')")
    assert all(words in done.stderr for words in said)
    given = labels_of(shared, domain)
    assert len(given) == 3 and given[1] == ("travel", "review:ana") and {source for _, source in given} == {"review:ana"}
    assert given[0][0] in KNOWN and given[2][0] in (*KNOWN, "travel")
    told = shared.cli("review", "--report", "--domain", domain)
    assert "review:ana" in told and "nobody else has labelled" in told
    count = sit(shared, domain, "\n" * 5, "-n", "2", "--source", "ana")
    assert "2 labels by review:ana, 0 of them not as guessed" in count.stdout and "that is all for now" in count.stderr
    assert len(json.loads(shared.cli("review", "-n", "3", "--json", "--domain", domain))["items"]) == 3
    assert json.loads(shared.cli("review", "--report", "--json", "--domain", domain))["labels"] == 5


def test_the_end_of_the_input_and_an_empty_pool_end_it(shared: Daemon, domain: str) -> None:
    done = sit(shared, domain, "")
    assert (done.returncode, "nothing waits for a label" in done.stderr) == (0, True) and done.stdout.startswith("0 labels by")
    answered(shared, domain, *texts("card")[:3])
    done = sit(shared, domain, "\ncard\ny\n", "--minutes", "5")
    assert done.returncode == 0 and "there is no guess yet" in done.stderr and done.stdout.startswith("1 label by")


def test_two_people_at_once_are_both_asked(shared: Daemon, domain: str) -> None:
    shared.teach(lesson(KNOWN, 5), domain)
    answered(shared, domain, *(text for topic in TOPICS for text in texts(topic)[5:45]))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shared.ask("GET", f"/v1/{domain}/review"), range(8)))
    assert {status for status, _ in found} <= {200, 429} and any(status == 200 for status, _ in found)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda name: sit(shared, domain, "\n", "-n", "1", "--source", name), ("ana", "bo", "cy")))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert sum(one.stdout.startswith("1 label by") for one in done) >= 1


@pytest.mark.parametrize("words, code", [(["--minutes", "0"], 2), (["-n", "0"], 2), (["-n", "2", "--minutes", "3"], 2),
                                         (["--report", "-n", "2"], 2), (["--domain", "nope"], 1)])
def test_bad_commands_are_refused(shared: Daemon, words: list[str], code: int) -> None:
    shared.cli("review", *(words if "--domain" in words else [*words, "--domain", "d0"]), expect=code)


def test_a_daemon_that_does_not_run_is_told(make: Make) -> None:
    make().cli("review", expect=3)
