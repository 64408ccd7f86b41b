"""What an adaptation had begun from is found again by the next daemon, once, or swept away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptd import begun
from adaptd.begun import MOST_STARTS, Begun

FACTS: dict[str, Any] = {"domain": "text", "reason": "on demand", "actor": "me", "branch": 1, "seq": 9, "after": 4,
                         "origin": {"label": "aa"}, "recipe": {"strategy": "replay", "options": {"steps": 3}}}


def left(jobs: Path, name: str, **facts: Any) -> Path:
    """Leave what a dead daemon leaves."""
    (jobs / name / "label").mkdir(parents=True)
    Begun(**FACTS | facts).write(jobs / name)
    return jobs / name


def test_the_newest_of_each_domain_is_kept_and_the_rest_is_swept(tmp_path: Path) -> None:
    left(tmp_path, "text-1-100")
    kept = left(tmp_path, "text-1-200")
    left(tmp_path, "gone-1-1", domain="gone")
    (tmp_path / "text-1-300").mkdir()  # it had not begun
    (tmp_path / "text-1-400").mkdir()
    (tmp_path / "text-1-400" / begun.FILE).write_text(json.dumps({"domain": "text"}))
    (tmp_path / "a file").write_text("")
    assert begun.sweep(tmp_path, ["text"]) == ["a file", "gone-1-1", "text-1-100", "text-1-300", "text-1-400"]
    assert list(tmp_path.iterdir()) == [kept]


def test_it_is_taken_over_once_and_not_too_often(tmp_path: Path) -> None:
    left(tmp_path, "text-1-100")
    assert begun.take(tmp_path, "other") is None
    taken = begun.take(tmp_path, "text")
    assert taken is not None and taken[1].starts == 2 and begun.read(taken[0]) == taken[1]
    assert begun.take(tmp_path, "text") is None  # it is this process's now
    begun.stopped(taken[0])
    assert (again := begun.read(taken[0])) is not None and again.starts == 1
    left(tmp_path, "text-1-500", starts=MOST_STARTS)
    assert begun.sweep(tmp_path, ["text"]) == ["text-1-500"]


def test_what_is_otherwise_is_named() -> None:
    was = Begun(**FACTS)
    assert was.differs(1, 4, FACTS["origin"], FACTS["recipe"]) is None
    assert was.differs(2, 4, FACTS["origin"], FACTS["recipe"]) == "the live state was rolled back"
    assert was.differs(1, 4, {"label": "bb"}, FACTS["recipe"]) == "the champion is another"
    assert was.differs(1, 4, FACTS["origin"], FACTS["recipe"] | {"seed": 1}) == "the settings are others"
    assert was.differs(1, 9, FACTS["origin"], FACTS["recipe"]) == "its rows have been learned"
