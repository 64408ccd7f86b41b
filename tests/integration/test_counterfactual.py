"""What a counterfactual claims is true: the records are forgotten on a real store, and the answer flips as it said."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.live import Json, Live

Store = Callable[[], Live]
CARD = ("lost card", "my card is lost", "card lost again", "where is my card", "card", "new card please", "a card")
RAIN = ("will it rain", "rain", "rain tomorrow", "rain and snow", "is it rain", "more rain", "cold rain")
ASKED = ("lost card in the rain", "my card", "rain card", "tomorrow is cold")


def lesson(texts: Sequence[str], label: str, source: str, **fields: str) -> list[Json]:
    return [{"text": text, "label": label, "source": source, **fields} for text in texts]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path / "store") as life:
        yield life


@pytest.fixture
def copies(live: Live, tmp_path: Path) -> Iterator[Store]:
    """Return what opens a copy of the store as it is now."""
    numbers = itertools.count()
    with ExitStack() as stack:
        def copy() -> Live:
            folder = tmp_path / f"copy-{next(numbers)}"
            shutil.copytree(live.folder, folder)
            return stack.enter_context(Live(folder))

        yield copy


def teach(live: Live, events: list[Json]) -> None:
    assert not live.do(live.service.events("text", events, source="http"))["rejected"]


def explained(live: Live, text: str, *, counterfactual: bool = True) -> Json:
    event = live.do(live.service.predict("text", [{"text": text}], source="http", explain=False, min_seq=None, actor="m"))
    identity = event["predictions"][0]["event"]
    return live.do(live.service.explain("text", identity, counterfactual=counterfactual))


def forget(live: Live, **selector: str) -> None:
    live.do(live.service.forget("text", selector=selector, reason="", actor="m"))


def check(found: Json, asked: str, copies: Store) -> None:
    """Forget what is claimed to matter, each claim on a copy of its own."""
    if found["records"]:
        copy = copies()
        for record in found["records"]:
            forget(copy, event=record["event"])
        [(label, scores)] = copy.answers([asked])
        assert label == found["becomes"] != found["answer"]
        assert (max(scores.values()) if scores else 0.0) == pytest.approx(found["confidence"], abs=1e-5)
    for source in found["sources"]:
        copy = copies()
        forget(copy, source=source["source"])
        [(label, scores)] = copy.answers([asked])
        assert (label, label != found["answer"]) == (source["label"], source["flips"])
        assert (max(scores.values()) if scores else 0.0) == pytest.approx(source["confidence"], abs=1e-5)


@pytest.mark.parametrize("asked", ASKED)
def test_the_records_that_it_names_flip_the_answer_and_none_of_them_can_be_spared(
    live: Live, copies: Store, asked: str
) -> None:
    teach(live, [*lesson(CARD[:4], "card", "crm"), *lesson(RAIN, "rain", "weather"), *lesson(CARD[4:], "card", "intern")])
    before = live.answers(ASKED)
    found = explained(live, asked)["counterfactual"]["label"]
    assert live.answers(ASKED) == before, "nothing that serves was touched"
    assert found["records"] and sum(found["taught_by"].values()) == len(found["records"])
    assert {r["label"] for r in found["records"]} == {found["answer"]}
    assert {s["source"] for s in found["sources"]} <= {"crm", "weather", "intern"} and "flip" in found["words"]
    check(found, asked, copies)
    for spared in found["records"] if len(found["records"]) > 1 else []:
        copy = copies()
        for record in found["records"]:
            if record is not spared:
                forget(copy, event=record["event"])
        assert copy.answers([asked])[0][0] == found["answer"], f"{spared} is not needed"


def test_a_label_that_came_late_is_told_apart_from_where_its_event_came_from(live: Live, copies: Store) -> None:
    events = live.do(live.service.events("text", [{"text": text, "source": "crm"} for text in CARD[:3]], source="http"))["events"]
    live.do(live.service.feedback("text", [{"event": e, "label": "card"} for e in events], source="agent"))
    teach(live, lesson(RAIN, "rain", "weather"))
    found = explained(live, "lost card")["counterfactual"]["label"]
    assert set(found["taught_by"]) == {"agent"} and {r["from"] for r in found["records"]} == {"crm"}
    assert "taught by agent" in found["words"] and found["sources"][0]["source"] == "crm"
    check(found, "lost card", copies)


def test_an_adapter_that_was_trained_on_them_is_counted_as_gone(live: Live, copies: Store) -> None:
    teach(live, [*lesson(CARD[:3], "card", "crm"), *lesson(RAIN[:5], "rain", "weather")])
    live.verdict = "promote"
    assert live.do(live.service.adapt("text", wait=True, actor="m"))["verdict"] == "promote"
    teach(live, lesson(CARD[3:], "card", "intern"))
    for asked in ASKED[:2]:
        found = explained(live, asked)["counterfactual"]["label"]
        assert found["records"]
        check(found, asked, copies)


def test_many_that_say_the_same_are_not_flipped_and_it_says_how_far_it_looked(live: Live) -> None:
    teach(live, [*lesson([f"card {n}" for n in range(60)], "card", "crm"), *lesson(RAIN, "rain", "weather")])
    found = explained(live, "card 5")["counterfactual"]["label"]
    assert (found["records"], found["becomes"]) == ([], None)
    assert "no set of at most 20 records" in found["words"]
    assert [s["label"] for s in found["sources"]] == ["rain"]


def test_the_only_source_leaves_no_answer_and_no_label_is_nothing_to_flip(live: Live) -> None:
    nothing = explained(live, "card")["counterfactual"]["label"]
    assert (nothing["answer"], nothing["records"]) == (None, [])
    teach(live, lesson(CARD[:2], "card", "crm"))
    found = explained(live, "card")["counterfactual"]["label"]
    assert (found["becomes"], len(found["records"])) == (None, 2) and "to no answer" in found["words"]
    assert [(s["source"], s["label"]) for s in found["sources"]] == [("crm", None)]


def test_every_event_says_which_version_was_live_and_which_answered(live: Live) -> None:
    teach(live, lesson(CARD[:2], "card", "crm"))
    number = live.do(live.service.snapshot("text", reason="", actor="m"))["version"]
    told = explained(live, "my card", counterfactual=False)
    assert (told["live_then"], [a["version"] for a in told["answers"]], told["now"]["version"]) == (number, [number], number)
    assert "counterfactual" not in told
    heard = {one["expert"]: one["trust"] for one in told["now"]["experts"]}
    assert set(heard) >= {"ridge", "attention"} and sum(heard.values()) == pytest.approx(1.0, abs=1e-4)
    live.do(live.service.rollback("text", to=1, at=None, reason="", actor="m", and_replay=False, except_sources=()))
    never = live.do(live.service.events("text", [{"text": "nobody asked"}], source="http"))["events"][0]
    told = live.do(live.service.explain("text", never, counterfactual=False))
    assert (told["live_then"], told["answers"], told["now"]["label"]) == (1, [], None)
