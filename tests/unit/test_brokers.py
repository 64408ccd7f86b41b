"""Feeds of brokers before they are connected: options, secrets, libraries; and an event's fields, for every kind."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from adaptd import feeds
from adaptd.config import FeedSettings
from adaptd.errors import BadConfig, BadPayload, MissingExtra
from adaptd.feeds import kafka
from adaptd.feeds.broker import Broker, BrokerFeed
from adaptd.feeds.elements import Fields, element
from adaptd.plugins import collect, load

PAGE = Path(__file__).parents[2] / "docs" / "feeds.md"
KINDS: dict[str, Any] = collect(load("adaptd", []), "register_feeds")
BROKERS = {name: kind for name, kind in KINDS.items() if issubclass(kind, Broker)}
NEEDED = {"redis": {"stream": "s"}, "nats": {"stream": "s"}, "mqtt": {"topics": ["t"], "client_id": "c"},
          "rabbitmq": {"queue": "q"}, "kafka": {"topics": ["t"]}, "sse": {}}


def made(name: str, folder: Path = Path("/store"), **options: Any) -> Any:
    given = {"url": f"{BROKERS[name].schemes[0]}://host", **NEEDED[name], **options}
    settings = FeedSettings(kind=name, domain="text", options=given, fields={"id": "id", "text": "text"})
    return feeds.build(KINDS, "f", settings, folder)[0]


@pytest.mark.parametrize("name", BROKERS)
def test_wrong_options_are_named_with_the_cure(name: str) -> None:
    made(name)
    for wrong in ({"url": "gopher://host"}, {"url": "host"}, {"batch": 0}, {"wait_s": 0}, {"cert_file": "c.pem"}):
        with pytest.raises(BadConfig) as refused:
            made(name, **wrong)
        assert refused.value.hint
    with pytest.raises(BadConfig) as refused:
        made(name, url=f"{BROKERS[name].schemes[0]}://ann:hunter2@host")
    assert "hunter2" not in refused.value.message + refused.value.hint and "$env" in refused.value.hint


@pytest.mark.parametrize("options", [{"topics": []}, {"topics": "t"}, {"topics": ["^t.*"]}, {"mechanism": "GSSAPI"},
                                     {"username": "ann"}])
def test_wrong_options_of_kafka_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadConfig) as refused:
        made("kafka", **options)
    assert refused.value.field


def test_settings_of_kafka_go_to_its_library() -> None:
    given = {"url": "kafkas://[::1]", "servers": ["b", "c:1"], "username": "ann", "password": "p", "ca_file": "ca.pem"}
    settings = made("kafka", **given).config()
    assert settings["bootstrap.servers"] == "[::1]:9093,b:9093,c:1" and settings["security.protocol"] == "SASL_SSL"
    assert (settings["sasl.username"], settings["sasl.password"], settings["ssl.ca.location"]) == ("ann", "p", "/store/ca.pem")
    assert made("kafka").config()["security.protocol"] == "PLAINTEXT"


@pytest.mark.parametrize("settings, copies, words", [
    ({}, 1, ["one copy"]), ({"min.insync.replicas": "1"}, 3, ["min.insync.replicas"]), ({"min.insync.replicas": "2"}, 3, []),
    ({"min.insync.replicas": "2", "unclean.leader.election.enable": "true"}, 3, ["unclean"])])
def test_settings_of_a_topic_that_lose_what_was_acknowledged_are_named(settings: dict[str, str], copies: int,
                                                                       words: list[str]) -> None:
    found = kafka._weak(copies, settings)
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True))


@pytest.mark.parametrize("name", BROKERS)
def test_secrets_do_not_show(name: str) -> None:
    secrets = {"password": "hunter2", **({"token": "hunter2"} if name == "nats" else {})}
    assert "hunter2" not in repr(made(name, username="ann", **secrets))


@pytest.mark.parametrize("name", BROKERS)
def test_a_missing_library_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(MissingExtra) as missing:
        made(name)
    assert missing.value.hint == f"pip install 'adaptd[{name}]'" and BROKERS[name].library[0] in missing.value.message


@pytest.mark.parametrize("name", BROKERS)
def test_encryption_is_by_the_scheme_and_files_are_seen_from_the_configuration(name: str, tmp_path: Path) -> None:
    plain, secure = made(name), made(name, url=f"{BROKERS[name].schemes[1]}://host")
    assert plain.tls() is None and plain.address == ("host", BROKERS[name].port[0])
    assert secure.tls() is not None and secure.address == ("host", BROKERS[name].port[1])
    assert made(name, tmp_path, ca_file="ca.pem").ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if getattr(kind, "needs_id", False)])
def test_a_kind_without_offsets_wants_to_know_where_the_id_is(name: str) -> None:
    options = {"url": f"{BROKERS[name].schemes[0]}://host", **NEEDED[name]}
    with pytest.raises(BadConfig) as refused:
        feeds.build(KINDS, "f", FeedSettings(kind=name, domain="text", options=options), Path())
    assert refused.value.field == "feeds.f.fields.id" and 'fields = { id = "id"' in refused.value.hint


@pytest.mark.parametrize("paths, wanted", [
    ({}, {"id": "k", "text": "t", "deep": {"text": "d", "n": 3}, "a.b": 1}),
    ({"text": "deep.text", "label": "deep.n", "id": "a.b"}, {"text": "d", "label": 3, "id": 1}),
    ({"text": "text", "source": "@topic", "subject": "@headers.who"},
     {"text": "t", "source": "x/y", "subject": "ann", "id": "k"}),
    ({"text": "deep.text.more", "label": "none"}, {"id": "k"}),
])
def test_fields_come_from_dotted_paths_and_from_beside_the_element(paths: dict[str, str], wanted: dict[str, Any]) -> None:
    raw = b'{"text": "t", "deep": {"text": "d", "n": 3}, "a.b": 1}'
    item = element(raw, "{}", key="k", about={"topic": "x/y", "headers": {"who": "ann"}})
    assert Fields(paths=paths).event(item) == wanted


def test_an_element_that_must_name_its_id_and_does_not_is_refused() -> None:
    taken = Fields(paths={"id": "number", "text": "text"}, needs_id=True)
    assert taken.event(element(b'{"text": "t", "number": 7}', "{}")) == {"id": 7, "text": "t"}
    with pytest.raises(BadPayload) as refused:
        taken.event(element(b'{"text": "t"}', "{}"))
    assert refused.value.field == "id" and "'number'" in refused.value.message


def test_the_page_names_every_kind_and_every_option() -> None:
    text = PAGE.read_text()
    for name, kind in KINDS.items():
        assert f"| `{name}` |" in text, f"docs/feeds.md has no row for {name}"
        section = text.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        common = {one.name for one in fields(BrokerFeed)} if name in BROKERS else set()
        wanted = {one.name for one in fields(kind) if one.init} - common
        assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == wanted, name
    shared = text.split("\n## Options of every broker\n", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", shared, re.M)) == {one.name for one in fields(BrokerFeed)}
