"""The plugin keeps its promises; taste is exact whatever came and went; and the figures of docs/recommend.md."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adaptd import Ask, Taught
from adaptd.records import Candidate
from adaptd.testing import check_domain
from adaptd_recommend import Recommend
from adaptd_recommend.taste import Taste, flat

GENRES = ("War", "Comedy", "Drama")


def vector(item: str) -> np.ndarray:
    return np.random.RandomState(int(item[1:])).normal(size=8).astype(np.float32)


def vectors(events: Sequence[int]) -> Mapping[int, np.ndarray]:
    return {event: vector(f"i{event % 20}") for event in events}


def taught(row: int, user: str, item: int, label: Any = 5, head: str = "rating") -> Taught:
    payload = {"user": user, "item": f"i{item}", "text": "…", "features": {"genre": GENRES[item % 3]}}
    return Taught(row=row, event=20 * row + item, payload=payload, head=head, label=label)


def ask(user: str, items: Sequence[int] = range(20), **more: Any) -> Ask:
    found = [Candidate(id=f"i{item}", payload={"features": {"genre": [GENRES[item % 3]]}}, vector=vector(f"i{item}"))
             for item in items]
    return Ask(user=user, candidates=found, k=more.pop("k", len(found)), **more)


def order(taste: Taste, asked: Ask) -> list[tuple[str, float]]:
    return [(one.id, one.score) for one in taste.rank(asked, vectors)]


def test_recommend_is_a_good_domain() -> None:
    check_domain(Recommend, feedback=[{"click": "click", "rating": 3}], rejected=[
        {"item": "i1"}, {"text": "a"}, {"item": "i1", "text": " "}, {"item": "i1", "text": "a", "user": 4},
        {"item": "i1", "text": "a", "features": {"genre": [1]}}, {"item": "i1", "text": "a", "features": "x"}])
    said = {"user": "a", "item": "i", "text": "T"}
    assert Recommend().content(said) != Recommend().content({**said, "user": "b"}), "two opinions are two things"


def test_an_unknown_user_gets_what_many_like_and_an_unknown_item_what_its_text_says() -> None:
    taste = Taste()
    assert len(order(taste, ask("nobody"))) == 20, "where nothing is known at all"
    for row in range(5):
        taste.learn(taught(row, f"u{row}", 7))
    assert order(taste, ask("nobody"))[0][0] == "i7"
    why = {one.id: one.why for one in taste.rank(ask("u1", [7, 8, 10]), vectors)}
    assert why["i10"]["features"] == why["i7"]["features"] >= 0.0 and why["i8"]["popularity"] == 0.0


def test_who_likes_the_same_likes_the_same() -> None:
    taste = Taste()
    for row in range(40):
        taste.learn(taught(row, f"u{row % 20}", (1, 4)[row // 20] if row % 20 < 10 else (2, 5)[row // 20]))
    taste.learn(taught(100, "me", 1))
    assert taste.rank(ask("me", [4, 5]), vectors)[0].id == "i4"
    taste.learn(taught(101, "me", 1, 1))
    taste.learn(taught(102, "me", 2, "click", "click"))
    assert taste.rank(ask("me", [4, 5]), vectors)[0].id == "i5", "the newest opinion counts"


def test_what_was_unlearned_had_never_come() -> None:
    drawn, taste, alive = random.Random(3), Taste(), dict[int, Taught]()
    for row in range(300):
        one = taught(row, f"u{drawn.randrange(8)}", drawn.randrange(20), drawn.randint(1, 5))
        alive[row] = one
        taste.learn(one)
        if drawn.random() < 0.4:
            gone = drawn.choice(list(alive))
            taste.unlearn(gone)
            del alive[gone]
    fresh = Taste()
    for one in alive.values():
        fresh.learn(one)
    for user in (*(f"u{number}" for number in range(8)), "nobody"):
        assert order(taste, ask(user)) == order(fresh, ask(user))


def test_diversity_keeps_likes_apart() -> None:
    taste = Taste()
    for row in range(30):
        taste.learn(taught(row, f"u{row}", row % 6))
    close = [Candidate(id=f"c{n}", payload={}, vector=np.eye(8, dtype=np.float32)[n // 4]) for n in range(8)]
    first = [one.id for one in taste.rank(Ask(user="u", candidates=close, k=2, diversity=1.0), vectors)]
    assert {int(one[1:]) // 4 for one in first} == {0, 1}
    assert [one.id for one in taste.rank(Ask(user="u", candidates=close, k=2), vectors)] == ["c0", "c1"]


def test_features_may_be_one_or_several() -> None:
    assert flat({"features": {"genre": ("War",), "year": "1995"}}) == {"genre=War", "year=1995"} and not flat({})
