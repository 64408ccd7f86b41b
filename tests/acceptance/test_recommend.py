"""Personalised ranking on a real daemon: from the first event on, and exact over a rollback, a forget and a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.daemon import ADAPTING, Daemon, Json

pytestmark = pytest.mark.acceptance
Make = Callable[..., Daemon]
CONFIG = ADAPTING + '[plugins]\nallow = ["adaptd-recommend"]\n[domains.recommend]\n'
FILMS = {"i1": ("a war film about the Pacific", "War"), "i2": ("soldiers in the trenches", "War"),
         "i3": ("a wedding goes wrong, a comedy", "Comedy"), "i4": ("two clowns share a flat", "Comedy"),
         "i5": ("a submarine hunts a convoy", "War")}


def film(item: str, **more: Any) -> Json:
    return {"item": item, "text": FILMS[item][0], "features": {"genre": [FILMS[item][1]]}, **more}


def ranked(daemon: Daemon, user: str, *items: str, **more: Any) -> list[Json]:
    body = {"user": user, "candidates": [film(item) for item in items or FILMS], **more}
    found: list[Json] = daemon.post("recommend/rank", body)["ranking"]
    return found


def test_a_ranking_is_personal_from_the_first_event_and_as_exact_as_all_else(make: Make) -> None:
    daemon = make(CONFIG).start()
    assert {one["id"] for one in ranked(daemon, "ana")} == set(FILMS), "nothing is known of anybody"
    daemon.teach([film("i3", user=f"u{n}", label={"click": "click"}) for n in range(3)], "recommend")
    assert ranked(daemon, "ana")[0]["id"] == "i3", "who is new gets what many like"
    version = daemon.post("recommend/snapshot", {"reason": "before ana"})["version"]
    before = ranked(daemon, "ana")

    taught = daemon.teach([film("i1", user="ana", subject="ana", label={"rating": 5}),
                           film("i3", user="ana", subject="ana", label={"rating": 1})], "recommend")
    after = ranked(daemon, "ana")
    assert {one["id"] for one in after[:3]} == {"i1", "i2", "i5"}, "war films, of which nobody has rated two"
    assert after[-1]["id"] == "i3", "what was not liked comes last"
    assert ranked(daemon, "ana", "i2", "i4", k=1)[0]["id"] == "i2" and ranked(daemon, "bob") != after
    daemon.restart()
    assert ranked(daemon, "ana") == after

    saved = daemon.post("recommend/rollback", {"to": version})["saved"]
    assert ranked(daemon, "ana") == before
    daemon.post("recommend/rollback", {"to": saved})
    daemon.post("recommend/resume", {})
    assert ranked(daemon, "ana") == after
    daemon.post("recommend/feedback", {"event": taught["events"][0], "label": {"rating": 1}}, 202)
    assert ranked(daemon, "ana") != after, "a correction counts at once"
    daemon.post("recommend/forget", {"subject": "ana"})
    assert ranked(daemon, "ana") == before

    for body, field in (({"user": "ana", "candidates": []}, "candidates"), ({"user": "", "candidates": [film("i1")]}, "user"),
                        ({"user": "ana", "candidates": [film("i1"), {"item": "i2"}]}, "candidates[1]"),
                        ({"user": "ana", "candidates": [film("i1")], "diversity": 2}, "diversity"),
                        ({"user": "ana", "candidates": [film("i1")], "k": 0}, "k")):
        status, document = daemon.ask("POST", "/v1/recommend/rank", body)
        assert status == 422 and str(document["error"]["field"]).startswith(field) and document["error"]["hint"], document
    status, document = daemon.ask("POST", "/v1/text/rank", {"user": "ana", "candidates": [film("i1")]})
    assert (status, document["error"]["field"]) == (422, "domain")
