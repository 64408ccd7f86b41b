"""The client's patience and its records, against a listener that answers what a test says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptd import answers
from adaptd.api import replies
from adaptd.client import Client
from adaptd.errors import AdaptdError, BadConfig, BadPayload, BadRequest, Busy, Disconnected, NotRunning, StoreFailed
from adaptd.wire import url
from tests.unit.socketdouble import Reply, SocketDouble


class Listener(SocketDouble):
    """Answers the requests in turn; the last reply stays."""

    def __init__(self, path: Path, replies: list[Reply]) -> None:
        self.asked: list[Any] = []
        self._replies = replies
        super().__init__(path, self._next)

    def _next(self, method: str, path: str, body: Any) -> Reply:
        self.asked.append(body)
        return self._replies[min(len(self.asked), len(self._replies)) - 1]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def start(*replies: Reply) -> Listener:
        made.append(Listener(tmp_path / "s", list(replies)))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr("adaptd.client.time.sleep", found.append)
    return found


def later(status: int, code: str, after: str | None) -> Reply:
    return status, {"error": {"code": code, "message": "full", "hint": "wait"}}, {} if after is None else {"Retry-After": after}


TAKEN: Reply = 202, {"accepted": 1, "duplicates": 0, "held": 0, "rejected": [], "events": ["1-a"], "seq": 1}, {}


def test_later_is_as_the_daemon_says(listen: Callable[..., Listener], tmp_path: Path, slept: list[float]) -> None:
    listener = listen(later(429, "busy", "3"), later(503, "store_failed", "5"), TAKEN)
    assert Client(tmp_path / "s").learn(("a", "b")).accepted == 1
    assert slept == [3.0, 5.0]
    assert len({json.dumps(body) for body in listener.asked}) == 1, "the same event with the same id"


def test_patience_ends(listen: Callable[..., Listener], tmp_path: Path, slept: list[float]) -> None:
    listen(later(429, "busy", "3"))
    with pytest.raises(Busy) as caught:
        Client(tmp_path / "s", patience_s=2).learn(("a", "b"))
    assert (caught.value.retry_after_s, slept) == (3.0, [])


def test_what_says_no_time_is_the_answer(listen: Callable[..., Listener], tmp_path: Path, slept: list[float]) -> None:
    listen(later(503, "store_failed", None))
    with pytest.raises(StoreFailed):
        Client(tmp_path / "s").learn(("a", "b"))
    assert slept == []


def test_a_lost_answer_is_asked_again_where_that_changes_nothing(listen: Callable[..., Listener], tmp_path: Path,
                                                                 slept: list[float]) -> None:
    listener = listen(None, TAKEN)
    assert Client(tmp_path / "s").learn({"text": "a"}).accepted == 1
    assert len(listener.asked) == 2 and listener.asked[0] == listener.asked[1] and listener.asked[0][0]["id"]


@pytest.mark.parametrize("verb", ["snapshot", "rollback", "adapt"])
def test_a_lost_answer_to_a_change_is_an_error(listen: Callable[..., Listener], tmp_path: Path, slept: list[float],
                                               verb: str) -> None:
    listener = listen(None, (200, {"version": 2, "saved": 3, "verdict": None}, {}))
    with pytest.raises(Disconnected):
        getattr(Client(tmp_path / "s"), verb)()
    assert (len(listener.asked), slept) == (1, [])


def test_as_a_context_it_keeps_its_connection_and_notices_one_that_ended(listen: Callable[..., Listener], tmp_path: Path,
                                                                         slept: list[float]) -> None:
    close: Reply = 200, {"versions": []}, {"Connection": "close"}
    listener = listen((200, {"versions": []}, {}), (200, {"versions": []}, {}), close, (200, {"versions": []}, {}))
    with Client(tmp_path / "s") as client:
        assert [client.versions() for _ in range(4)] == [[], [], [], []]
    assert (listener.connections, slept) == (2, [])


def test_nobody_there_is_said_at_once(tmp_path: Path, slept: list[float]) -> None:
    with pytest.raises(NotRunning):
        Client(tmp_path / "s").status()
    assert slept == []


def test_an_answer_of_another_version_is_an_error_of_ours(listen: Callable[..., Listener], tmp_path: Path) -> None:
    listen((200, {"state": "running"}, {}))
    with pytest.raises(AdaptdError, match="not as expected"):
        Client(tmp_path / "s").status()


@pytest.mark.parametrize("given", [3, None, ["a", "b", "c"], b"text"])
def test_what_is_no_event_is_refused_before_it_is_sent(tmp_path: Path, given: Any) -> None:
    with pytest.raises(BadPayload, match="an event is"):
        Client(tmp_path / "s").learn([given])


def test_what_is_no_json_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="cannot be sent as JSON"):
        Client(tmp_path / "s").learn({"text": "a", "score": float("nan")})


@pytest.mark.parametrize("where", ["ftp://host", "http://", "http://me:secret@host", "http://host:port", "http://host/?token=x"])
def test_what_is_no_address_is_refused_without_showing_a_secret(where: str) -> None:
    with pytest.raises(BadConfig) as caught:
        Client(where)
    assert "secret" not in str(caught.value) and caught.value.field == "where"


def test_a_url_may_have_a_path() -> None:
    assert url("https://proxy.example/adaptd/").prefix == "/adaptd"


@pytest.mark.parametrize(("record", "schema"), [
    (answers.Answered, replies.PredictionBody), (answers.Ingested, replies.Ingested), (answers.Adapted, replies.Adapted),
    (answers.RolledBack, replies.RolledBack), (answers.Replayed, replies.Replayed), (answers.Certificate, replies.Certificate),
    (answers.Status, replies.Status)])
def test_the_records_have_what_the_daemon_promises(record: Any, schema: Any) -> None:
    names = {one.name for one in dataclasses.fields(record)} - {"document"}
    beside = {"version", "seq"} if record is answers.Answered else set()  # of the whole answer
    assert names - beside == set(schema.model_fields)
