"""Translation on a real daemon with a real model, small and trained here: a corrected term is used in the next answer."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.daemon import Daemon, until
from tests.acceptance.test_moments import now
from tests.acceptance.translation import CONFIG, PAIRS, ask, writer

pytestmark = pytest.mark.acceptance
Json = dict[str, Any]
Make = Callable[..., Daemon]
ASKED, TERM = "the dog sleeps in the park", "vierbeiner"
CORRECTED = ("the dog runs in the snow", "der vierbeiner läuft im schnee")


@pytest.fixture(scope="module")
def daemon(translation_model: Path) -> Iterator[Daemon]:
    with Daemon(CONFIG) as made:
        (made.folder / "model").symlink_to(translation_model)
        yield made.start()


@pytest.fixture(autouse=True)
def _forgets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test find what another has taught."""
    yield
    if "daemon" in request.fixturenames:
        for event, in request.getfixturevalue("daemon").rows("SELECT DISTINCT id FROM event WHERE source != '(forgotten)' "
                                                             "AND seq IN (SELECT event FROM learned)"):
            request.getfixturevalue("daemon").post("translate/forget", {"event": event, "reason": "the next test"})


def teach(daemon: Daemon, text: str, translation: str) -> str:
    event = str(ask(daemon, text)["event"])
    daemon.post("translate/feedback", {"event": event, "label": translation}, 202)
    return event


def unread(process: psutil.Process) -> int:
    """Return the bytes that a process has been sent and has not read."""
    count = array.array("i", [0])
    with open(f"/proc/{process.pid}/fd/0", "rb", buffering=0) as pipe:
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_corrected_term_is_used_in_the_next_answer_and_goes_with_a_rollback(daemon: Daemon) -> None:
    found = ask(daemon, ASKED)
    assert (found["label"], found["remembered"]) == ("der hund schläft im park", [])
    before = daemon.post("translate/snapshot", {"reason": "before"})["version"]
    event = teach(daemon, *CORRECTED)
    found = ask(daemon, ASKED)
    assert found["label"] == f"der {TERM} schläft im park"
    assert [(one["text"], one["translation"], one["event"]) for one in found["remembered"]] == [(*CORRECTED, event)]
    others = [(source, target) for source, target in PAIRS if source != CORRECTED[0]]
    answers = daemon.post("translate/predict", {"inputs": [{"text": source} for source, _ in others]})["predictions"]
    wanted = [target.replace("der hund", f"der {TERM}") for _, target in others]
    assert [one["label"] for one in answers] == wanted, "in every sentence with the word, and in no other"
    assert daemon.ask("GET", f"/v1/translate/explain/{found['event']}")[1]["now"]["label"] == found["label"]
    daemon.restart()
    assert TERM in ask(daemon, ASKED)["label"]
    daemon.post("translate/rollback", {"to": before})
    assert ask(daemon, ASKED)["label"] == "der hund schläft im park"
    daemon.post("translate/resume", {"what": "learning"})


def test_what_was_forgotten_is_used_no_more(daemon: Daemon) -> None:
    event = teach(daemon, *CORRECTED)
    assert TERM in ask(daemon, ASKED)["label"]
    daemon.post("translate/forget", {"event": event, "reason": "test"})
    found = ask(daemon, ASKED)
    assert (found["label"], found["remembered"]) == ("der hund schläft im park", [])
    assert not daemon.rows("SELECT 1 FROM learned WHERE target LIKE ?", f"%{TERM}%")


def test_what_was_taught_comes_back_as_it_is_whole_and_the_newest_of_it(daemon: Daemon) -> None:
    text, long = ". ".join(source for source, _ in PAIRS[:40]), ". ".join(target for _, target in PAIRS[:40])
    assert len(long) > 256
    event = teach(daemon, text, long.upper())
    daemon.post("translate/feedback", {"event": event, "label": long}, 202)
    found = ask(daemon, text)
    assert (found["label"], found["confidence"]) == (long, 1.0)
    assert len(daemon.ask("GET", "/v1/translate/memory")[1]["heads"]["translation"]["labels"]) == 1, "texts are no classes"
    figures = daemon.ask("GET", "/v1/translate/observed")[1]["observers"]["quality"]["all"]
    assert figures["translations"] == 1 and 50 < figures["chrf"] <= 100, "sentence by sentence it was translated well"
    done = daemon.post("translate/adapt", {"wait": True})
    assert done["verdict"] == "undecided" and done["reasons"] == ["1 learned labels; an adaptation wants 200"]


def test_a_long_text_is_judged_made_again_and_forgotten_as_it_was_taught(daemon: Daemon) -> None:
    text, long = ". ".join(source for source, _ in PAIRS[:40]), ". ".join(target for _, target in PAIRS[:40]) + ' "schluss"\nZ'
    first = teach(daemon, text, long)
    version = daemon.post("translate/snapshot", {"reason": "before"})["version"]
    found = ask(daemon, text)
    assert found["label"] == long
    right = daemon.domain("translate")["accuracy"]["prequential"] * daemon.domain("translate")["answered_and_labelled"]
    daemon.post("translate/feedback", {"event": found["event"], "label": long}, 202)
    after = daemon.domain("translate")
    assert after["accuracy"]["prequential"] * after["answered_and_labelled"] == pytest.approx(right + 1), "it is what was taught"
    moment = daemon.post("translate/rollback", {"at": now()})["version"]
    folds = json.loads(daemon.rows("SELECT metrics FROM version WHERE number = ?", moment)[0][0])["folds"]
    assert folds["prequential"]["total"] and folds["per_label"] == {}, "texts are no classes"
    daemon.post("translate/resume", {"what": "learning"})
    assert json.loads(daemon.cli("rebuild", str(version), "--domain", "translate", "--json"))["verdict"] == "match"
    third = ask(daemon, text)["event"]
    kept = "SELECT labels FROM prediction JOIN event ON event.seq = prediction.event WHERE event.id = ?"
    assert json.loads(until(lambda: daemon.rows(kept, third), "it is recorded")[0][0]) == {"translation": long}
    for event in (first, found["event"]):
        daemon.post("translate/forget", {"event": event, "reason": "test"})
    assert json.loads(daemon.rows(kept, third)[0][0]) == {"translation": None}, "the last who said it is gone"


def test_a_writer_that_hangs_or_ends_is_not_felt_by_others_and_a_flood_is_refused(daemon: Daemon) -> None:
    asked = {"inputs": [{"text": source} for source, _ in PAIRS[:80]]}
    hangs = writer(daemon)
    with ThreadPoolExecutor() as beside:
        hangs.suspend()
        flood = [beside.submit(daemon.ask, "POST", "/v1/translate/predict", asked) for _ in range(3)]
        until(lambda: [one.result()[0] for one in flood if one.done()] == [429, 429], "the flood is refused")
        assert daemon.post("text/predict", {"inputs": [{"text": "hello"}]})["predictions"]
        hangs.resume()
        [(status, body)] = [found for one in flood if (found := one.result())[0] != 429]
    assert status == 200 and [one["label"] for one in body["predictions"]] == [target for _, target in PAIRS[:80]]
    with ThreadPoolExecutor() as beside:
        hangs.suspend()
        flood = [beside.submit(daemon.ask, "POST", "/v1/translate/predict", asked) for _ in range(2)]
        until(lambda: unread(hangs), "one is being translated")
        os.kill(hangs.pid, signal.SIGKILL)
        [(status, body)] = [found for one in flood if (found := one.result())[0] != 429]
    assert (status, body["error"]["code"]) == (503, "not_written") and "killed by signal 9" in body["error"]["message"]
    assert ask(daemon, ASKED)["label"] == "der hund schläft im park", "it is started again"
    assert "killed by signal 9" in daemon.problems()["not_written"]


def test_odd_texts_get_a_clear_error_or_a_sensible_answer(daemon: Daemon) -> None:
    for text, words in (("", "nothing to translate"), (" \x00\x07 ", ""), (7, "must be a string"), ("x " * 3000, "the limit is")):
        status, body = daemon.ask("POST", "/v1/translate/predict", {"inputs": [{"text": text}]})
        assert status == 422 and words in body["error"]["message"], body
    assert "characters that the model does not know" in ask(daemon, "狗在公园里睡觉")["reason"]
    assert ask(daemon, "狗在公园里睡觉")["label"] is None
    assert ask(daemon, "123 !!")["label"] == "123 !!"
    found = ask(daemon, f"{ASKED}.\n\n2026\n\nthe cat\x07 sits at the beach.")
    assert found["label"].split("\n\n")[1] == "2026" and found["label"].startswith("der hund schläft im park"), found
    assert isinstance(ask(daemon, "<p>the dog</p> <script>x</script>")["label"], str)
    long = ask(daemon, "the dog runs in the park " * 100)
    assert long["label"].count("hund") > 1, "a sentence that is too long is read in parts"
    status, body = daemon.ask("POST", "/v1/translate/events", [{"text": "a dog", "label": ""}, {"text": "a dog", "label": ["x"]}])
    assert [one["error"]["field"] for one in body["rejected"]] == ["label", "label"]


def test_without_a_model_the_others_answer_and_the_cure_is_told(make: Make) -> None:
    daemon = make(CONFIG.replace('model = "model"', 'model = "no/where"')).start()
    status, body = daemon.ask("POST", "/v1/translate/predict", {"inputs": [{"text": "hello"}]})
    assert (status, body["error"]["code"]) == (503, "not_written") and "neither a folder" in body["error"]["message"]
    assert "download = true" in body["error"]["hint"]
    assert "neither a folder" in until(lambda: daemon.problems().get("not_written"), "it is told")
    assert daemon.post("text/predict", {"inputs": [{"text": "hello"}]})["predictions"]


