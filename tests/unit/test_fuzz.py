"""What nobody would send: bytes, and structures that are nearly right, at every reader. Only an AdaptdError may come out.

FUZZ_EXAMPLES=20000 tries longer.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import os
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adaptd import config
from adaptd.api.bodies import _lines, _list
from adaptd.api.requests import Event
from adaptd.config import Limits, Redact
from adaptd.errors import AdaptdError, BadConfig, BadPayload, BadSignature
from adaptd.feeds.elements import Fields, element
from adaptd.feeds.webhook import Webhook
from adaptd.heads import Classify
from adaptd.ingest import ENVELOPE, FEEDBACK, Door
from adaptd.interfaces import Domain
from adaptd.records import Example, canonical
from adaptd.redact import redactor
from adaptd.strictjson import loads
from adaptd.text import Text

fuzz = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")), deadline=None, derandomize=True, database=None,
                suppress_health_check=[*HealthCheck])
LIMITS = Limits(items=50, characters=200)
ODD = st.sampled_from(["", "\0", "\ud800", "\udfff", "\u202e", "\uffff", "é" * 300, "NaN", "1e999", "\n", "text",
                       "电话13812345678", "a@b.com"])
WORDS = ODD | st.text(st.characters(), max_size=8)
LEAVES = (st.none() | st.booleans() | st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats() | WORDS)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
                      max_leaves=12)
DEEP = st.integers(1, 60).map(lambda depth: json.loads("[" * depth + "]" * depth))
NAMES = st.sampled_from(["a", "1", "mail", "电话"]) | VALUES
LABELS = NAMES | st.fixed_dictionaries({"topic": NAMES, "mood": NAMES})
RIGHT = st.fixed_dictionaries({"text": st.sampled_from(["hello", "lost card", "我的卡"]), "body": st.just(" x ")}, optional={
    **dict.fromkeys(ENVELOPE, NAMES), "label": LABELS, "time": st.floats() | WORDS})
LATE = st.fixed_dictionaries({"label": LABELS}, optional=dict.fromkeys(FEEDBACK[:3] + FEEDBACK[4:], NAMES))
WRONG = st.dictionaries(st.sampled_from([*ENVELOPE, *FEEDBACK, "text", "body"]) | WORDS, VALUES | DEEP, max_size=6)
ELEMENTS = RIGHT | LATE | WRONG | VALUES


class Mail(Domain):
    """Two heads."""

    name = "mail"
    heads = {"topic": Classify(), "mood": Classify()}

    def example(self, payload: Any) -> Example:
        """Read the body; raises what a careless plugin raises."""
        return Example(text=payload["body"].strip())


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """Draw lines of JSON of which some have lost, doubled or changed a few bytes."""
    lines = draw(st.lists(ELEMENTS, max_size=5))
    data = bytearray(b"\n".join(json.dumps(one, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
                                for one in lines))
    odd = st.sampled_from([b"{", b"\xff", b"\0", b"\\u", b"]" * 40, b"\xef\xbb\xbf"])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at:at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | odd)
    return bytes(data)


@fuzz
@given(st.binary(max_size=200) | nearly_json(), st.booleans())
def test_strict_json_and_its_lines(data: bytes, lone: bool) -> None:
    for read in (lambda: loads(data, lone_surrogates=lone), lambda: _list(data, model=Event, limits=LIMITS),
                 lambda: _lines(data, LIMITS)):
        try:
            read()
        except AdaptdError as error:
            assert error.status in (400, 413, 422)


@fuzz
@given(st.lists(ELEMENTS, max_size=4), st.sampled_from([Text(), Mail()]), st.sampled_from([None, "replace", "hash", "reject"]))
def test_the_door(raw: list[Any], domain: Domain, action: Any) -> None:
    """Every element is taken or rejected, and what is taken can be stored."""
    by = action and redactor(Redact(entities=["email", "phone", "card", "iban", "id", "ip"], action=action), b"key", "x")
    door = Door(domain, LIMITS, b"key", lambda: 1_777_900_000.0, by)
    for take in (door.items, door.feedback):
        good, rejected = take(raw, source="http")
        assert sorted([index for index, _ in good] + [one["index"] for one in rejected]) == list(range(len(raw)))
        for one in rejected:
            canonical(one).encode()
        for _, item in good:
            stored = (getattr(item, one.name) for one in dataclasses.fields(item))
            canonical([value for value in stored if not isinstance(value, bytes | Example) and value is not None
                       and type(value).__name__ != "_Missing"]).encode()


def signed(kind: str, secret: str, body: bytes) -> dict[str, str]:
    """Return the headers of one who knows the secret."""
    if kind == "github":
        return {"x-hub-signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}
    now, key = str(int(time.time())), base64.b64decode(secret.removeprefix("whsec_"))
    sign = base64.b64encode(hmac.new(key, b"m1." + now.encode() + b"." + body, hashlib.sha256).digest()).decode()
    return {"webhook-id": "m1", "webhook-timestamp": now, "webhook-signature": f"v1,{sign}"}


SECRETS = {"github": "a secret that both know", "standard": "whsec_" + base64.b64encode(b"twenty-four bytes or so.").decode()}
HEADERS = st.dictionaries(st.sampled_from(["x-hub-signature-256", "webhook-id", "webhook-timestamp", "webhook-signature", "x"]),
                          st.text(st.characters(max_codepoint=255), max_size=30)
                          | st.sampled_from(["v1,", "v1,AAAA v1a,x", "nan", "1e400"]))


@fuzz
@given(st.sampled_from(["github", "standard"]), HEADERS, st.binary(max_size=100) | nearly_json(), st.booleans())
def test_webhooks(kind: str, headers: dict[str, str], body: bytes, known: bool) -> None:
    """Nobody who does not know the secret comes in; who does, may send anything."""
    feed = Webhook(secret=SECRETS[kind], signature=kind)
    if not known:
        with pytest.raises(BadSignature):
            feed.signed(headers, body)
        return
    feed.signed(signed(kind, SECRETS[kind], body), body)
    item = element(body, "null", key="k", about={"headers": headers})
    assert (item.value is None) == (item.error is not None) and item.raw == body
    paths = {"text": "a.b", "id": "@headers.x", "label": "label"}
    for fields in (Fields(paths={}, needs_key=True), Fields(paths=paths, needs_id=True)):
        try:
            Door(Text(), LIMITS, b"key", time.time).items([fields.event(item)], source="hook")
        except BadPayload as error:
            canonical(error.body()).encode()


FULL = tomllib.loads((Path(__file__).parents[2] / "configs" / "adaptd.toml").read_text())
SECTIONS = [[name, *inner] for name, value in FULL.items()
            for inner in ([[]] + ([[key] for key in value] if isinstance(value, dict) else []))]
# what TOML can hold, of the right kind or not
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "\0", "$env", "text", "../x", "1d", "* * * * *"])
TOML = st.recursive(TEXT | st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.booleans(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["$env", "$file"]), inner, max_size=1), max_leaves=6)
KEYS = st.sampled_from([*FULL, "domains", "feeds", "encoders", "state", "domain", "_env_file", "_cli_parse_args", "self",
                        "model_config"]) | TEXT


def toml(value: Any) -> str:
    """Return a value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value).replace("\x7f", "\\u007f")


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    """Draw a configuration of which some settings are others, by name or by value; or what is no TOML."""
    document: dict[str, Any] = json.loads(json.dumps(FULL))
    for _ in range(draw(st.integers(1, 3))):
        where: Any = document
        for key in draw(st.sampled_from(SECTIONS))[:-1]:
            where = where[key] if isinstance(where, dict) and isinstance(where.get(key), dict) else where
        keys = st.sampled_from(sorted(where)) | KEYS if where else KEYS
        where[draw(keys)] = draw(TOML)
    data = bytearray("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in document.items()).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        data[at:at] = draw(st.binary(max_size=3) | st.sampled_from([b"[" * 2000, b"\xff", b"\0", b"a.b.c=", b"9" * 5000]))
    return bytes(data)


@fuzz
@given(data=configurations())
@example(data=b"a = " + b"[" * 5000 + b"]" * 5000)
@example(data=b"a = " + b"9" * 5000)
@example(data=b".".join([b"a"] * 5000) + b" = 1")
@example(data=b'state = {"$file" = "\\u0000"}')
@example(data=b'domain = {"$file" = "secret"}')
@example(data=b'domain = {"$env" = "\\u0000"}')
@example(data=b'_env_file = "x"')
@example(data=b"_cli_parse_args = true")
@example(data=b"self = 1")
def test_configurations(folder: Path, data: bytes) -> None:
    (folder / "adaptd.toml").write_bytes(data)
    (folder / "secret").write_bytes(b"\xff\xfe")
    try:
        config.load(folder)
    except BadConfig as error:
        canonical(error.body()).encode()
        assert error.exit_code == 78


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")
