"""Webhooks: whose signature lets in, and that a delivery is answered when it is committed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest

from adaptd.errors import BadConfig, BadSignature, Busy, NotReady
from adaptd.feeds import webhook
from adaptd.feeds.webhook import Webhook

GITHUB, STANDARD = "It's a Secret to Everybody", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of their documentation
BODY = b'{"text": "t"}'


def github(body: bytes = BODY, secret: str = GITHUB) -> dict[str, str]:
    return {"x-hub-signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",
            "x-github-delivery": "d1", "x-github-event": "issues"}


def standard(body: bytes = BODY, at: float | None = None, number: str = "msg_1") -> dict[str, str]:
    moment = str(int(time.time() if at is None else at))
    key = base64.b64decode(STANDARD.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{number}.{moment}.".encode() + body, "sha256")
    return {"webhook-id": number, "webhook-timestamp": moment, "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


def made(signature: str, **options: Any) -> Webhook:
    return Webhook(**{"secret": GITHUB if signature == "github" else STANDARD, "signature": signature, "wait_s": 0.02, **options})


def test_what_the_documentations_of_both_sign_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made("github").signed({"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
                          b"Hello, World!")
    monkeypatch.setattr(time, "time", lambda: 1614265330.0)
    made("standard").signed({"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
                             "webhook-signature": "v1,other v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
                            b'{"test": 2432232314}')


@pytest.mark.parametrize("wrong", [
    {}, github(b"other"), github(secret="another secret, long enough"), {**github(), "x-hub-signature-256": "sha256="},
    {**github(), "x-hub-signature-256": "sha256=\xf6"}, {"x-hub-signature-256": github()["x-hub-signature-256"][7:]}, standard()])
def test_another_signature_of_github_s_kind_does_not_let_in(wrong: Mapping[str, str]) -> None:
    made("github").signed(github(), BODY)
    with pytest.raises(BadSignature) as refused:
        made("github").signed(wrong, BODY)
    assert refused.value.hint and github()["x-hub-signature-256"] not in str(refused.value.body())


@pytest.mark.parametrize("wrong", [  # made when the tests are collected, which may be long before
    {}, github(), standard(b"other"), standard(at=time.time() - 400), standard(at=time.time() + 86400),
    {**standard(), "webhook-id": "msg_2"}, {**standard(), "webhook-timestamp": str(int(time.time()) - 5)},
    {**standard(), "webhook-timestamp": "soon"}, {**standard(), "webhook-timestamp": "9" * 5000}, standard(number=""),
    {**standard(), "webhook-signature": standard()["webhook-signature"].replace("v1,", "v2,")},
    {**standard(), "webhook-signature": "v1, \xf6"}])
def test_another_signature_of_the_standard_s_kind_or_an_old_one_does_not_let_in(wrong: Mapping[str, str]) -> None:
    made("standard").signed(standard(), BODY)
    with pytest.raises(BadSignature):
        made("standard").signed(wrong, BODY)


@pytest.mark.parametrize(("kind", "headers", "missing"), [
    ("github", github(), "x-hub-signature-256"), ("standard", standard(), "webhook-signature"),
    ("standard", standard(), "webhook-id"), ("standard", standard(), "webhook-timestamp")])
def test_what_is_not_signed_at_all_is_refused_without_its_body(kind: str, headers: Mapping[str, str], missing: str) -> None:
    made(kind).announced(headers)
    with pytest.raises(BadSignature):
        made(kind).announced({name: value for name, value in headers.items() if name != missing})


def test_the_old_secret_lets_in_while_it_is_there() -> None:
    old = github(secret="the one before this one")
    with pytest.raises(BadSignature):
        made("github").signed(old, BODY)
    both = made("github", old_secret="the one before this one")
    both.signed(old, BODY)
    both.signed(github(), BODY)


@pytest.mark.parametrize("options", [
    {"signature": "md5"}, {"secret": ""}, {"secret": "short"}, {"old_secret": ""},
    {"signature": "standard", "secret": "whsec_ä!"}, {"signature": "standard", "secret": "whsec_c2hvcnQ="},
    {"batch": 0}, {"wait_s": 0}, {"events": "issues"}, {"signature": "standard", "secret": STANDARD, "events": ["push"]}])
def test_options_that_would_let_anybody_in_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((BadConfig, ValueError)):
        Webhook(**{"secret": GITHUB, "signature": "github", **options})
    assert GITHUB not in repr(made("github", old_secret=GITHUB))


def deliveries(feed: Webhook, number: int, *, commit: bool = True) -> tuple[list[Any], list[Any]]:
    """Deliver so often, all at once; return what was read and what was answered."""

    async def read(found: list[Any]) -> None:
        async with aclosing(feed.read(None)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                found += batch
                if len(found) >= number and (not commit or not batch):
                    return

    async def both() -> tuple[list[Any], list[Any]]:
        found: list[Any] = []
        sent = [asyncio.ensure_future(feed.deliver({"x-github-delivery": f"d{at}", "cookie": "c"}, BODY)) for at in range(number)]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in sent if number <= feed.batch), "answered before it was committed"
        await asyncio.wait_for(read(found), 10.0)
        return found, await asyncio.gather(*sent, return_exceptions=True)

    return asyncio.run(both())


def test_a_delivery_is_answered_with_its_id_when_what_is_behind_it_is_asked_for() -> None:
    feed = made("github", batch=2)
    found, answers = deliveries(feed, 2)
    assert answers == ["d0", "d1"] == [one.key for one in found] and feed.lag() == 0
    assert found[0].value == {"text": "t"} and found[0].about == {"id": "d0", "event": None,
                                                                 "headers": {"x-github-delivery": "d0"}}


def test_what_is_not_committed_is_to_be_sent_again() -> None:
    _, answers = deliveries(made("github"), 2, commit=False)
    assert [type(one) for one in answers] == [NotReady, NotReady]


def test_more_than_may_wait_are_sent_away_and_one_that_waits_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def full() -> None:
        monkeypatch.setattr(webhook, "ANSWER_S", 0.05)
        feed = made("github", batch=1)
        first = asyncio.ensure_future(feed.deliver({}, BODY))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="as many"):
            await feed.deliver({}, BODY)
        with pytest.raises(Busy, match="not committed yet"):
            await first

    asyncio.run(full())


def test_events_of_other_types_are_passed_over() -> None:
    feed = made("github", events=["issues"])
    assert asyncio.run(feed.deliver({"x-github-event": "ping", "x-github-delivery": "p"}, b"{}")) == "p" and feed.lag() == 0
