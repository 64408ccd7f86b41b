"""Domains that are a configuration and no code: the shipped files, each on a real daemon, with a handful of rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.daemon import Daemon, until

pytestmark = pytest.mark.acceptance
Json = dict[str, Any]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NOTES = [
    ("twisted ankle while playing football, swollen", "orthopaedics"),
    ("fell on the left wrist, cannot move it", "orthopaedics"),
    ("knee gives way when walking downstairs", "orthopaedics"),
    ("itchy rash on both arms since a week", "dermatology"),
    ("a mole on the back has changed its colour", "dermatology"),
    ("dry, scaly skin behind the ears", "dermatology"),
    ("the child has an ear ache and cries at night", "paediatrics"),
    ("four years old, spots all over, kindergarten closed", "paediatrics"),
]
REPORTS = [
    ("a deep hole in the road in front of the bakery", "pot hole"),
    ("the asphalt is broken and cars have to go round it", "pothole"),
    ("our street has more holes than asphalt", "pothole"),
    ("the lamp in front of number 12 is out", "street_light"),
    ("it is pitch dark, no lamp works in Mill Lane", "street lamp"),
    ("the light at the crossing flickers all night", "street_light"),
    ("the bins were not emptied on tuesday", "missed_collection"),
    ("somebody has left a sofa and tyres in the woods", "fly-tipping"),
]
ESSAYS = [
    ("I like holiday. Is good. I go beach and I swim. I happy.", 2, "A1"),
    ("My family go to sea. Sun is hot. I eat ice. It is nice.", 2.5, "A1"),
    ("We was in the mountains and it rain much. I not like this.", 3, "A1"),
    ("Last summer we went to the coast. The weather was nice and I swam every day.", 6, "A2"),
    ("We travelled by train to my aunt. I helped her in the garden and we cooked together.", 6.5, "A2"),
    ("In July I visited a camp. There were many children and we played games in the evening.", 7, "A2"),
    ("Although the journey was tedious, the view that awaited us amply rewarded our patience, and we stayed on.", 11, "B2"),
    ("Travelling, I have come to believe, is less a matter of distance than of attention: one may be abroad in one's own street.",
     11.5, "B2"),
    ("What had been conceived as a leisurely retreat turned, owing to the rain, into an exercise in improvisation.", 11, "B2"),
]


def started(name: str) -> Daemon:
    made = Daemon((CONFIGS / f"{name}.toml").read_text())
    for file in CONFIGS.glob(f"{name}-*.csv"):
        shutil.copy(file, made.folder)
    return made.start()


def ask(daemon: Daemon, domain: str, text: str, **payload: Any) -> Json:
    found: Json = daemon.post(f"{domain}/predict", {"inputs": [{"text": text, **payload}]})["predictions"][0]
    return found


@pytest.fixture(scope="module")
def triage() -> Iterator[Daemon]:
    with started("triage") as daemon:
        daemon.teach([{"text": text, "label": label} for text, label in NOTES], "triage")
        yield daemon


@pytest.fixture(scope="module")
def city() -> Iterator[Daemon]:
    with started("city") as daemon:
        daemon.teach([{"text": text, "label": label} for text, label in REPORTS], "city")
        yield daemon


def test_triage_answers_nothing_whose_error_it_cannot_state_yet_but_what_a_rule_knows(triage: Daemon) -> None:
    found = ask(triage, "triage", "the ankle is swollen after a fall")
    assert found["label"] is None and "no confidence is known yet" in found["reason"] and "orthopaedics" in found["scores"]
    assert ask(triage, "triage", "58 y, chest pain since this morning")["label"] == "emergency"
    assert ask(triage, "triage", "fever since yesterday", age=0.5)["label"] == "paediatrics"


def test_triage_keeps_no_personal_data(triage: Daemon) -> None:
    found = ask(triage, "triage", "please call me back under +44 20 7946 0018 about the rash")
    (payload,) = triage.rows("SELECT payload FROM event WHERE id = ?", found["event"])[0]
    assert "7946" not in payload and "<PHONE>" in payload


def test_triage_answers_once_outcomes_show_how_often_it_is_right(triage: Daemon) -> None:
    when = ("since today", "again", "worse now", "for two days", "not better", "at night", "after work", "no change",
            "as last year", "second visit", "since sunday", "a bit", "as before", "very much", "quite sudden", "on and off")
    notes = [(f"{text}, {since}", label) for since in when for text, label in NOTES]
    for start in range(0, len(notes), 8):
        triage.teach([{"text": text, "label": label} for text, label in notes[start:start + 8]], "triage")
    triage.settled("triage")
    assert ask(triage, "triage", "twisted ankle while playing football, swollen", age=40)["label"] == "orthopaedics"
    assert ask(triage, "triage", "the child has an ear ache and cries at night", age=40)["label"] != "paediatrics"  # an adult's


def test_a_report_gets_its_kind_with_the_office_above_it_however_it_was_called_when_taught(city: Daemon) -> None:
    found = ask(city, "city", "there is a deep hole in the road")
    assert (found["label"], found["path"]) == ("pothole", ["roads", "pothole"])
    assert set(city.ask("GET", "/v1/city/memory")[1]["heads"]["label"]["labels"]) == {
        "pothole", "street_light", "missed_collection", "illegal_dumping"}


def test_a_report_that_is_not_surely_of_one_kind_goes_to_the_office(city: Daemon) -> None:
    found = ask(city, "city", "a hole under the street lamp")
    assert (found["label"], found["path"]) == ("roads", ["roads"]), found["scores"]
    assert found["instead_of"] in ("pothole", "street_light")
    assert found["confidence"] > found["scores"][found["instead_of"]]
    query = "SELECT p.labels FROM prediction p JOIN event e ON e.seq = p.event WHERE e.id = ?"
    (recorded,) = until(lambda: city.rows(query, found["event"]), "the answer is recorded")
    assert recorded[0] == '{"label":null}'  # for accuracy it is withheld


def test_a_kind_that_no_office_has_is_refused_and_the_nearest_is_named(city: Daemon) -> None:
    refused = city.post("city/events", [{"text": "a tree has fallen", "label": "potholes"}], 422)
    assert "pothole" in str(refused) and "no label of the vocabulary" in str(refused)


def test_gas_is_an_emergency_in_any_words(city: Daemon) -> None:
    assert ask(city, "city", "It smells of gas in the hallway")["label"] == "gas_leak"


def test_an_essay_gets_a_grade_from_the_scale_and_a_level_and_a_wrong_one_is_refused() -> None:
    with started("essay") as essay:
        essay.teach([{"text": text, "label": {"grade": grade, "level": level}} for text, grade, level in ESSAYS], "essay")
        essay.settled("essay")
        plain = ask(essay, "essay", "I go to beach with family. Is nice. I swim.")["label"]
        fine = ask(essay, "essay", "Notwithstanding the rain, the retreat, leisurely as conceived, rewarded us.")["label"]
        assert plain["grade"] < fine["grade"] and (plain["level"], fine["level"]) == ("A1", "B2")
        wrong = [{"text": "x", "label": {"grade": 13}}, {"text": "x", "label": {"level": "D"}}]
        refused = essay.post("essay/events", wrong, 422)["rejected"]
        assert [one["error"]["field"] for one in refused] == ["label.grade", "label.level"]
