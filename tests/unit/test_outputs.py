"""Outputs before they are connected: options, what they take, the page; a file; and what is read for them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert

from adaptd import outbox, outputs
from adaptd import tables as t
from adaptd.config import OutputSettings
from adaptd.errors import BadConfig
from adaptd.feeds.broker import Broker
from adaptd.outputs.http import HttpServer
from adaptd.outputs.jsonl import JsonlFile
from adaptd.plugins import collect, load
from adaptd.records import Message

PAGE = Path(__file__).parents[2] / "docs" / "outputs.md"
KINDS: dict[str, Any] = collect(load("adaptd", []), "register_outputs")
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODk="
NEEDED = {"redis": {"url": "redis://h", "stream": "s"}, "nats": {"url": "nats://h", "subject": "s"}, "jsonl": {"path": "out"},
          "mqtt": {"url": "mqtt://h", "topic": "t", "client_id": "c"}, "rabbitmq": {"url": "amqp://h", "routing_key": "q"},
          "kafka": {"url": "kafka://h", "topic": "t"}, "webhook": {"url": "https://h/in", "secret": SECRET},
          "labelstudio": {"url": "https://h", "project": 1, "token": "t0ken"},
          "argilla": {"url": "https://h", "dataset": "d", "api_key": "k3y"}}


def made(name: str, what: list[Any] | None = None, **options: Any) -> Any:
    given = what or list(getattr(KINDS[name], "takes", ["predictions"]))
    settings = OutputSettings(kind=name, what=given, options={**NEEDED[name], **options})
    return outputs.build(KINDS, "o", settings, Path("/store"))


@pytest.mark.parametrize(("name", "wrong"), [
    ("redis", {"url": "gopher://h"}), ("redis", {"stream": ""}), ("redis", {"maxlen": 0}), ("nats", {"subject": "a.*"}),
    ("mqtt", {"topic": "a/#"}), ("kafka", {"mechanism": "none"}), ("webhook", {"url": "ftp://h"}), ("webhook", {"secret": "x"}),
    ("argilla", {"timeout_s": 0}), ("jsonl", {"pfad": "x"})])
def test_wrong_options_are_named_with_the_cure(name: str, wrong: dict[str, Any]) -> None:
    made(name)
    with pytest.raises(BadConfig) as refused:
        made(name, **wrong)
    assert refused.value.hint


@pytest.mark.parametrize("name", ["labelstudio", "argilla"])
def test_people_are_sent_questions_only(name: str) -> None:
    with pytest.raises(BadConfig, match="takes no predictions"):
        made(name, ["predictions", "review"])


def test_secrets_are_not_shown() -> None:
    shown = repr([made(name) for name in KINDS])
    assert SECRET not in shown and "t0ken" not in shown and "k3y" not in shown
    assert made("jsonl").path == "/store/out"


def test_the_page_names_every_kind_and_every_option() -> None:
    text = PAGE.read_text()
    options = text.split("\n## Options\n", 1)[1].split("\n## ", 1)[0]
    for name, kind in KINDS.items():
        shared = {one.name for base in (Broker, HttpServer) if issubclass(kind, base) for one in fields(base)}
        row = re.search(rf"^\| `{name}` \| (.+) \|$", options, re.M)
        assert row is not None, name
        wanted = {one.name for one in fields(kind) if one.init} - shared
        assert wanted <= set(re.findall(r"`(\w+)`", row[1])), name


def test_a_line_that_a_crash_cut_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"

    async def send(number: int) -> None:
        async with JsonlFile(path=str(file)).connected() as send:
            await send([Message(id=f"m{number}", kind="prediction", about="e", body={"at": 1})])

    asyncio.run(send(1))
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("ab") as cut:
        cut.write(b'{"id": "m2"')
    asyncio.run(send(3))
    assert file.read_text().splitlines() == ['{"at":1,"id":"m1","kind":"prediction"}', '{"id": "m2"',
                                             '{"at":1,"id":"m3","kind":"prediction"}']


def test_pages_pass_over_other_domains_and_the_last_id_outlives_a_forget(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(t.domain), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
        event = {"digest": b"", "content": b"", "payload": "{}", "source": "s", "received": 1.0}
        connection.execute(insert(t.event), [{"seq": n, "id": f"e{n}", "domain": 1 + n % 2, **event} for n in range(1, 301)])
        answer = {"version": 1, "learned": 0, "labels": '{"label":"x"}', "confidence": 1.0, "at": 1.0}
        place, paused, sent = outbox.opened(connection, "o")
        assert (place.predictions, paused, sent) == (0, False, 0)
        connection.execute(insert(t.prediction), [{"id": n, "event": n, **answer} for n in range(1, 301)])
        found, last = outbox.predictions(connection, 0, {1: "a"})
        assert [one.about for one in found] == [f"e{n}" for n in range(2, 201, 2)] and last == outbox.PAGE
        found, last = outbox.predictions(connection, last, {1: "a"})
        assert last == 300 and found[-1].id == "e300.300" and found[-1].body["label"] == "x"
        outbox.keep(connection, "o", outbox.Place(predictions=last, verdicts=0), 150)
        connection.execute(delete(t.prediction).where(t.prediction.c.id > 290))
        assert outbox.newest(connection).predictions == 290 and outbox.last_prediction(connection) == 300
        assert outbox.holders(connection) == ["o"]
