"""`adaptd bench entities`, `ranking` and `translation`, in short, on sets of a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptd.bench import entities, page, ranking, report, translation
from adaptd.bench.plan import Run, Tools
from adaptd.bench.vectors import Encoded
from tests.unit.test_bench_domains import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
PLACES = ("Oslo", "Rome", "Quito", "Lima", "Cairo")


@contextmanager
def task(words: str, count: int) -> Iterator[Any]:
    yield lambda n: None


def measured(part: Any, module: Any, name: str, folder: Path) -> dict[str, Any]:
    """Measure in short; return the result, which a page can show."""
    run = Run(part=part, set=name, seed=0, adapt=False, quick=True, data=folder)
    result = report.write(folder / "out", run, "adaptd bench", 0.0, module.measure(run, Tools(Encoded(folder / "vectors"), task)))
    assert f"## {part.capitalize()}" in page.page([result], report.table, [])
    return result


def test_spans_stand_beside_what_is_fitted_once_and_what_is_fitted_on_all(tmp_path: Path) -> None:
    write(tmp_path / "towns" / "data.jsonl.gz", [
        {"tokens": ["We", "saw", PLACES[i % 5], str(i), "."], "tags": ["O", "O", "B-city", "O", "O"],
         "split": "test" if i % 2 else "train"} for i in range(80)])
    result = measured("entities", entities, "towns", tmp_path)
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == ["adaptd", "linear, fitted once", "conditional random field, of all", "linear, of all"]
    assert rows["adaptd"]["f1"] > 90 and rows["linear, of all"]["f1"] > 90 and rows["adaptd"]["forgetting"] <= 0


def test_rankings_stand_beside_what_is_frozen_and_the_usual_methods(tmp_path: Path) -> None:
    write(tmp_path / "films" / "items.jsonl.gz", [{"item": i, "title": f"Film {i}", "genres": ["War"]} for i in range(1, 301)])
    rating = np.arange(2400)
    user, item = rating // 30, 7 * rating % 300 + 1
    np.savez(tmp_path / "films" / "ratings.npz", user=user, item=item, rating=np.where(item % 3, 5, 2))
    result = measured("ranking", ranking, "films", tmp_path)
    rows = {row["method"]: row for row in result["rows"]}
    assert len(rows) == 6 and all(0 <= row["NDCG@10"] <= row["hit rate@10"] <= 100 for row in rows.values())
    assert "rankings" in result["remark"] and rows["adaptd"]["forgetting"] is not None


def test_translations_stand_beside_the_bare_model_and_one_that_is_fine_tuned(tmp_path: Path) -> None:
    kinds = [("dog", "Hund", "train", 40), ("dog", "Hund", "val", 40), ("ball", "Ball", "train", 200),
             ("tree", "Baum", "val", 40)]
    write(tmp_path / "captions" / "data.jsonl.gz", [
        {"en": f"a {what} in {PLACES[i % 5]} {i}", "de": f"ein {word} in {PLACES[i % 5]} {i}", "split": split}
        for what, word, split, count in kinds for i in range(count)])
    result = measured("translation", translation, "captions", tmp_path)
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == [translation.BARE, "adaptd", "adaptd, trust 0.5", "adaptd with LoRA", "fine-tuned at the end",
                          "translation memory"]
    assert rows[translation.BARE]["forgetting, BLEU"] == 0 and "Over HTTP" in result["remark"]
    assert len(result["verdicts"]) == 1
