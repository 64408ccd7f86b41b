"""What an answer and a label cost beside the bare encoder, of a user's own file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptd.bench import latency
from adaptd.bench.plan import Run, Tools
from adaptd.bench.vectors import Encoded
from tests.acceptance.daemon import lesson


def test_an_answer_and_a_label_are_set_beside_the_encoding_that_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    with file.open("w", newline="") as opened:
        rows = csv.DictWriter(opened, ("text", "label"))
        rows.writeheader()
        rows.writerows(lesson(["card", "weather", "music", "food"], 40))
    steps: list[int] = []

    @contextmanager
    def task(words: str, count: int) -> Iterator[object]:
        yield steps.append

    run = Run(part="latency", set="own", seed=0, adapt=False, quick=True, file=file)
    answer, label = latency.measure(run, Tools(Encoded(tmp_path / "vectors"), task))["rows"]  # type: ignore[arg-type]
    assert sum(steps) == 1 + latency.QUICK_TURNS
    for row in (answer, label):
        assert row["value"] > 0 and 0 < row["absolute"]["bare_ms"] and 0 < row["absolute"]["ms"]
        assert abs(row["value"] - row["absolute"]["ms"] / row["absolute"]["bare_ms"]) < 1e-9
