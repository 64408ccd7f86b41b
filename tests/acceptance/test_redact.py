"""A real daemon that redacts: by whatever door it comes, personal data is in no file of the store, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, lesson, until
from tests.acceptance.test_webhook import SECRET, address, send

pytestmark = pytest.mark.acceptance
CONFIG = ADAPTING + '''
[domains.text.redact]
entities = ["email", "phone", "card", "iban", "id", "ip"]
[feeds.lines]
kind = "jsonl"
domain = "text"
options = { path = "../FEED", poll_s = 0.1 }
[feeds.issues]
kind = "webhook"
domain = "text"
options = { secret = { "$file" = "secret" }, signature = "github", wait_s = 0.2 }
fields = { text = "issue.title", id = "issue.by" }
'''
# each once in every door: of the English and of the Chinese text, as they may stand in the bytes of a file
ENGLISH = "please call john.smith@example.com or (415) 555-2671, card 4111 1111 1111 1111, from 203.0.113.77"
CHINESE = "我叫张三，邮箱zhangsan@qq.com，电话13812345678，身份证11010519491231002X"
NEEDLES = ("john.smith", "555-2671", "5552671", "4111 1111", "41111111", "203.0.113.77", "zhangsan", "13812345678",
           "11010519491231002")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as one:
        feed = one.folder.with_name(one.folder.name + ".jsonl")
        feed.touch()
        one.configure(CONFIG.replace("FEED", feed.name))
        (one.folder / "secret").write_text(SECRET)
        try:
            yield one.start()
        finally:
            feed.unlink()


def leaks(daemon: Daemon) -> list[tuple[str, str]]:
    """Return which needle stands in which file of the store, the log included."""
    files = [path for path in daemon.folder.rglob("*") if path.is_file()] + [daemon._said]
    return [(needle, path.name) for path in files for needle in NEEDLES
            if any(needle.encode(how) in path.read_bytes() for how in ("utf-8", "utf-16-le"))]


def test_no_door_lets_personal_data_into_the_store(daemon: Daemon, tmp_path: Path) -> None:
    daemon.teach(lesson(["card", "music"], 5))
    event = {"id": "zhangsan@qq.com", "text": CHINESE, "label": "card", "subject": "john.smith@example.com",
             "phone": 13812345678}
    first = daemon.teach([event])
    again = daemon.post("text/events", [event], 202)
    assert again["duplicates"] == 1 and again["events"] == first["events"], "a second delivery is the same event"
    late = {"source": "http", "id": "zhangsan@qq.com", "label": "music", "teacher": "john.smith@example.com"}
    daemon.post("text/feedback", late, 202)
    answered = daemon.predict(ENGLISH, explain=True)["predictions"][0]
    assert answered["label"] in ("card", "music")
    refused = daemon.post("text/events", [{"text": "x", "label": "zhangsan@qq.com"}], 422)
    assert "zhangsan" not in json.dumps(refused["error"])
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps({"id": str(n), "text": f"{n} {text}"}) + "\n"
                            for n, text in enumerate((ENGLISH, CHINESE))))
    daemon.cli("ingest", str(file))

    feed = daemon.folder.with_name(daemon.folder.name + ".jsonl")
    with feed.open("ab") as lines:
        lines.write(json.dumps({"text": CHINESE, "label": "music"}).encode() + b"\n")
        lines.write(json.dumps({"txt": CHINESE, "id": "203.0.113.77"}).encode() + b"\n")  # no text: not taken
        lines.write(json.dumps({"text": ENGLISH, "label": "john.smith@example.com"}).encode() + b"\n")  # nor this
        lines.write(b'{"text": "' + ENGLISH.encode() + b"\n" + ENGLISH.encode("utf-16-le") + b"\xff\n")  # nor these
    until(lambda: daemon.status()["feeds"]["lines"]["dead"] == 4, "four lines are not taken")
    body = json.dumps({"issue": {"title": ENGLISH, "by": "john.smith@example.com"}}).encode()
    assert send(address(daemon), body, "d1")[0] == 202
    assert send(address(daemon), body.replace(b"title", b"tilte"), "d2")[0] == 202
    assert daemon.status()["feeds"]["issues"]["dead"] == 1
    assert "<EMAIL:" in daemon.cli("feeds", "dead", "list", "issues", "--json")
    daemon.cli("feeds", "dead", "retry", "--all", "lines", expect=1)  # what was refused is refused again

    (text,) = daemon.rows("SELECT payload FROM event WHERE key = '0'")[0]
    assert json.loads(text)["text"] == "0 please call <EMAIL> or <PHONE>, card <CARD>, from <IP>"
    (text,) = daemon.rows("SELECT payload FROM event WHERE key = '1'")[0]
    assert json.loads(text)["text"] == "1 我叫张三，邮箱<EMAIL>，电话<PHONE>，身份证<ID>"
    assert leaks(daemon) == []


def test_who_is_forgotten_is_named_as_they_are(daemon: Daemon) -> None:
    for stopped, name in ((False, "Ann.Lee@example.com"), (True, "ann.lee@EXAMPLE.com")):
        if stopped:
            daemon.teach([{"text": "once more", "subject": "ann.lee@example.com"}])
            daemon.stop()
        else:
            daemon.teach([{"text": "hello", "subject": f"{who}@example.com"} for who in ("ann.lee", "eve", "ann.lee")])
        told = json.loads(daemon.cli("forget", "--subject", name, "--reason", "asked", "--yes", "--json"))
        assert told["removed"]["event"] == (1 if stopped else 2)
    files = [path for path in daemon.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"ann.lee" in path.read_bytes().lower()]
