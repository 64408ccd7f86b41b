"""The queue of predictions: whose turn it is, what may wait, and when to come again."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from adaptd.errors import Busy
from adaptd.fair import BULK, FIRST, LEAST, TURN, FairQueue, Rate


@dataclass
class Asked:
    client: str
    size: int = 1
    domain: str = "text"
    each: int = 1  # what each of its examples weighs
    examples: range = field(init=False)

    def __post_init__(self) -> None:
        self.examples = range(self.size)

    def weight(self, row: int) -> int:
        return self.each


def taken(queue: FairQueue[Asked], most: int) -> list[tuple[str, str, int]]:
    return [(piece.request.domain, piece.request.client, len(piece.rows)) for piece in queue.take(most)]


def test_a_client_that_floods_does_not_delay_another() -> None:
    queue = FairQueue[Asked](1000)
    for _ in range(20):
        queue.put(Asked("flood"))
    queue.put(Asked("quiet"))
    first = [client for _, client, _ in taken(queue, 16)]
    assert first == ["flood"] * TURN + ["quiet"] + ["flood"] * (16 - TURN - 1) and queue.waiting == 5


def test_domains_take_turns_however_many_clients_one_has() -> None:
    queue = FairQueue[Asked](1000)
    for client in "abcd":
        queue.put(Asked(client, 4 * TURN, "busy"))
    queue.put(Asked("a", 2 * TURN, "other"))
    assert taken(queue, 6 * TURN) == [("busy", "a", TURN), ("other", "a", TURN), ("busy", "b", TURN), ("other", "a", TURN),
                                      ("busy", "c", TURN), ("busy", "d", TURN)]


def test_a_large_request_comes_in_pieces_that_are_all_of_it_in_order() -> None:
    queue = FairQueue[Asked](1000)
    large = Asked("a", 100)
    queue.put(large)
    rows: list[int] = []
    while queue:
        pieces = queue.take(30)
        assert all(piece.request is large for piece in pieces) and sum(len(piece.rows) for piece in pieces) <= 30
        rows += [row for piece in pieces for row in piece.rows]
    assert rows == list(range(100)) and queue.take(30) == []


def test_a_round_has_fewer_examples_that_weigh_more_and_one_of_them_at_least() -> None:
    queue = FairQueue[Asked](1000)
    queue.put(Asked("a", 10, "heavy", each=33))
    queue.put(Asked("a", 10, "light"))
    assert taken(queue, 64) == [("heavy", "a", 1), ("light", "a", TURN), ("heavy", "a", 1)]
    assert (queue.waiting, taken(queue, 8)) == (14, [("light", "a", TURN), ("heavy", "a", 1)])
    assert sum(size for _ in range(20) for _, _, size in taken(queue, 8)) == 9 and not queue


def test_a_client_may_let_wait_what_is_answered_soon() -> None:
    queue = FairQueue[Asked](10_000)
    for _ in range(FIRST):
        queue.put(Asked("a"))
    with pytest.raises(Busy, match="too many predictions"):
        queue.put(Asked("a"))
    queue.put(Asked("b"))  # who has nothing waiting is let in
    for _ in range(BULK - 1):
        queue.put(Asked("bulk", 1000))  # a large request may wait for some of its own size
    queue.put(Asked("bulk", 1000))
    with pytest.raises(Busy):
        queue.put(Asked("bulk", 1000))
    slow = FairQueue[Asked](10_000)
    slow.rate.took(1, 1.0)
    for _ in range(LEAST):
        slow.put(Asked("a"))
    with pytest.raises(Busy):
        slow.put(Asked("a"))
    fast = FairQueue[Asked](10_000)
    fast.rate.took(1000, 0.1)  # 10,000 a second: 1,000 are answered soon
    for _ in range(1000):
        fast.put(Asked("a"))
    with pytest.raises(Busy):
        fast.put(Asked("a"))


def test_all_together_never_let_more_wait_than_the_limit_but_one_alone_may_be_larger() -> None:
    queue = FairQueue[Asked](50)
    queue.put(Asked("a", 60))
    with pytest.raises(Busy):
        queue.put(Asked("b"))
    queue.take(60)
    queue.put(Asked("b"))
    assert queue.waiting == 1


def test_who_is_refused_is_told_when_to_come_again() -> None:
    rate = Rate()
    assert rate.retry_after_s(100) == 1.0 and rate.within(1.0) == 0  # nothing is known yet
    rate.took(50, 1.0)
    assert rate.retry_after_s(1000) == 10.0 and rate.within(2.0) == 100
    for _ in range(100):
        rate.took(100, 1.0)  # it goes faster now
    assert rate.retry_after_s(1000) == 5.0
    assert (rate.retry_after_s(1), rate.retry_after_s(10**9)) == (0.1, 60.0)


def test_a_client_whose_lane_is_full_is_told_before_it_asks_and_another_is_not() -> None:
    queue = FairQueue[Asked](1000)
    for _ in range(FIRST):
        queue.expect("text", "flood")
        queue.put(Asked("flood"))
    with pytest.raises(Busy):
        queue.expect("text", "flood")
    queue.expect("text", "quiet")
    taken(queue, FIRST)
    queue.expect("text", "flood")
