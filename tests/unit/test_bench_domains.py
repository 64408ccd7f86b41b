"""What the benchmarks of entities, ranking and translation ask, and how they count."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptd.bench import entities, ranking, sets, translation
from adaptd.bench.plan import Run
from adaptd.bench.ranking import Asked, Factorisation, Popularity

RATINGS = np.array([(user, item, 5 if (user + item) % 2 else 2) for user in range(40) for item in range(1, 301)])


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def run(part: Any, name: str, data: Path) -> Run:
    return Run(part=part, set=name, seed=0, adapt=False, data=data)


def tagged(folder: Path, kind: str, count: int) -> None:
    write(folder / "data.jsonl.gz", [{"tokens": ["In", f"Town{i}", "."], "tags": ["O", f"B-{kind}", "O"],
                                      "split": "test" if i % 5 == 0 else "train"} for i in range(count)])


def test_a_set_of_tagged_words_is_served_by_its_domain(tmp_path: Path) -> None:
    tagged(tmp_path / "a", "city", 10)
    data = sets.load("a", tmp_path)
    assert data.setting.domain == "entities" and len(data.split("test")) == 2
    assert data.split("train").labels[0] == [{"start": 3, "end": 8, "type": "city"}]


def test_what_forgetting_is_read_off_is_never_taught(tmp_path: Path) -> None:
    tagged(tmp_path / "a", "city", 200)
    stream = entities.prepare(run("entities", "a", tmp_path))
    assert (len(stream.taught), len(stream.early), len(stream.test)) == (152, 8, 40) and stream.first == 24
    assert not set(stream.taught.texts) & {*stream.early.texts, *stream.test.texts}


def test_sets_that_follow_one_another_have_the_types_in_common(tmp_path: Path) -> None:
    tagged(tmp_path / "a", "LOC", 50)
    tagged(tmp_path / "b", "location", 100)
    stream = entities.prepare(run("entities", "a+b", tmp_path))
    assert {one["type"] for spans in stream.taught.labels + stream.test.labels for one in spans} == {"LOC"}
    assert stream.first == 40 and len(stream.taught) == 120 and stream.early.texts == stream.test.texts[:10]


def test_a_ranked_item_stands_among_what_came_before_and_the_user_has_not_rated() -> None:
    first = 2400
    asked = ranking._drawn(RATINGS, first, np.random.RandomState(0))
    assert asked and all(at % 100 == 0 and RATINGS[at, 2] >= 4 for at in asked)
    for at, one in asked.items():
        assert one.item in one.items and len(set(one.items)) == 100
        others = set(one.items) - {one.item}
        assert others <= set(RATINGS[:at, 1].tolist())
        ends = len(RATINGS) if at < first else at
        assert not others & set(RATINGS[:ends][RATINGS[:ends, 0] == one.user, 1].tolist())


def test_who_likes_the_same_is_found_by_factors_and_the_most_liked_by_popularity() -> None:
    likes = np.array([(user, item, 5) for user in range(40) for item in (range(1, 6) if user % 4 else range(6, 11))])
    one = Asked(user=4, item=7, items=[1, 7, 99], new=False)
    factors, popular = Factorisation(1), Popularity()
    assert factors.ranked(one) == one.items, "what knows nothing keeps the order"
    for way in (factors, popular):
        way.learn(likes)
    assert factors.ranked(one)[0] == 7 and popular.ranked(one)[0] == 1


def test_streams_of_captions_share_nothing_with_what_is_held_out(tmp_path: Path) -> None:
    kinds = (("dog", "Hund", "train"), ("dog", "Hund", "val"), ("tree", "Baum", "val"), ("ball", "Ball", "train"))
    rows = [{"en": f"a {what} number {i}", "de": f"ein {word} Nummer {i}", "split": split}
            for what, word, split in kinds for i in range(400)]
    write(tmp_path / "mt" / "data.jsonl.gz", rows)
    base, streams = translation.prepare(run("translation", "mt", tmp_path))
    assert len(base) == 400 and all("Hund" in target for _, target in base)
    for name, word in (("new", "Ball"), ("terms", "Vierbeiner")):
        stream = streams[name]
        assert all(word in target for _, target in (*stream.pairs, *stream.held)) and all("Baum" in t for _, t in stream.old)
        assert not set(stream.pairs) & set(stream.held) and not set(base) & {*stream.pairs, *stream.held, *stream.old}


def test_a_word_counts_from_its_first_correction_on() -> None:
    pairs = [("a dog", "ein Vierbeiner")] * 12
    used = translation._used(["ein Hund"] * 2 + ["ein Vierbeiner"] * 10, pairs)
    assert used == {"1-9": pytest.approx(100 * 8 / 9), "10+": 100.0}
    assert all(map(math.isnan, translation._used([], pairs).values()))
