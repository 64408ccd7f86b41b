"""The demonstration's data and picture; that it plays against a real daemon is an acceptance test."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from adaptd import demo
from adaptd.demo.data import DAYS, FIRST_TOPICS, Material, diagnoses, own
from adaptd.demo.picture import draw
from adaptd.demo.story import Mark, Point, Record
from adaptd.errors import BadPayload, MissingExtra

LABELS = ("heart", "eye", "skin")


def lines(count: int, labels: Sequence[str] = LABELS) -> list[Any]:
    return [{"text": f"text {place}", "label": labels[place % len(labels)]} for place in range(count)]


def written(folder: Path, documents: Sequence[Any]) -> Path:
    file = folder / "own.jsonl"
    file.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in documents))
    return file


def disjoint(material: Material) -> bool:
    texts = [row.text for row in material.rows()]
    return len(texts) == len(set(texts))


@pytest.fixture(scope="module")
def shipped() -> Material:
    return diagnoses()


def test_the_shipped_stream_is_the_same_each_time(shipped: Material) -> None:
    assert shipped == diagnoses()


def test_topics_join_one_by_one_and_earlier_ones_go_on(shipped: Material) -> None:
    topics = [{row.label for row in day} for day in shipped.days]
    assert len(topics[0]) == FIRST_TOPICS
    assert all(earlier <= later for earlier, later in pairwise(topics))
    assert len(topics[-1]) == len({row.label for row in shipped.asked}) == 12


def test_no_asked_text_is_ever_labelled(shipped: Material, tmp_path: Path) -> None:
    assert disjoint(shipped)
    assert disjoint(own(written(tmp_path, lines(120) + lines(120))))


def test_own_rows_keep_the_order_of_the_file(tmp_path: Path) -> None:
    material = own(written(tmp_path, lines(100)))
    order = [int(row.text.split()[1]) for day in material.days for row in day]
    assert order == sorted(order) and len(material.days) == DAYS and all(material.days)


def test_a_long_file_is_thinned_over_its_whole_length(tmp_path: Path) -> None:
    material = own(written(tmp_path, lines(9000)))
    assert len(material.rows()) <= 3000
    assert int(material.days[-1][-1].text.split()[1]) > 8900


@pytest.mark.parametrize(("documents", "field", "words"), [
    ([*lines(70), {"text": "no label"}], "label", "own.jsonl:71: label"),
    ([{"label": "no text"}, *lines(70)], "text", "own.jsonl:1: text"),
    ([*lines(70), {"text": 7, "label": "eye"}], "text", "own.jsonl:71: text"),
    ([*lines(70), ["text"]], "text", "own.jsonl:71: text"),
    (lines(59), "text", "59 different texts"),
    (lines(59) + lines(59), "text", "59 different texts"),
    (lines(80, LABELS[:2]), "label", "2 labels"),
    (lines(80, [f"label {n}" for n in range(80)]), "label", "six different texts"),
])
def test_a_file_that_shows_nothing_is_refused(tmp_path: Path, documents: list[Any], field: str, words: str) -> None:
    with pytest.raises(BadPayload, match=words) as caught:
        own(written(tmp_path, documents))
    assert caught.value.field == field and caught.value.hint


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPayload, match=r"own.jsonl:2: not JSON") as caught:
        own(written(tmp_path, [lines(1)[0], "{text: 7}", *lines(70)]))
    assert caught.value.hint


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(MissingExtra, match="matplotlib") as caught:
        demo.run(None, tmp_path / "out")
    assert "adaptd[demo]" in caught.value.hint and not (tmp_path / "out").exists()


def test_the_picture_takes_any_label(tmp_path: Path) -> None:
    points = [Point(event=e, day=e / 100, topics=3, texts=9, adaptd=0.9, cron=0.8 * (e > 0)) for e in range(0, 400, 50)]
    marks = [Mark(event=100, kind="topic", text="$costs_{of}$ living" + "long " * 30), Mark(event=120, kind="night", text=""),
             Mark(event=200, kind="adapt", text="adapt: reject"), Mark(event=250, kind="rollback", text="rollback")]
    spoilt = [{"from": 200, "to": 250, "held": False}, {"from": 260, "to": 280, "held": True}]
    draw(Record(points=points, marks=marks, spoilt=spoilt), "a $ource", tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
