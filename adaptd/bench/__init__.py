"""The benchmark: `adaptd bench`. Every figure of adaptd is taken from a real daemon, over HTTP; strategies,
abstention, replies, ranking, review, weak labels and the gate in-process.

Read in this order: `streams.py` (the protocols, pure) → `sets.py` (the data) → `daemon.py` (a daemon on a temporary
store) → `peers.py`, `rivals.py`, `apart.py` (what a team would use instead, on the same vectors, each in a process of its
own) → one module for each part
(`class_incremental.py`, `strategies.py`, `consolidation.py`, `new_classes.py`, `prequential.py`, `heads.py`, `noise.py`,
`memory.py`, `abstain.py`, `replies.py`, `entities.py`, `ranking.py`, `translation.py`, `review.py`, `weak.py`, `gate.py`,
`speed.py`, `latency.py`, `ingest.py`, `feeds.py`, `overload.py`, `soak.py`) →
`report.py` (JSON, tables, pictures, page; `gate_page.py`: the gate's own).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptd.bench.plan import Run


def run(runs: Sequence[Run], out: Path, command: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run each, write its result to `out` as soon as it is there, return the results."""
    from adaptd.bench import report
    from adaptd.bench.plan import Tools
    from adaptd.bench.vectors import Encoded

    parts = [importlib.import_module(f"adaptd.bench.{one.part.replace('-', '_')}") for one in runs]
    expected = [part.expected_s(one) for part, one in zip(parts, runs, strict=True)]
    runs_words = f"{len(runs)} runs" if len(runs) > 1 else "one run"
    say(f"{runs_words}, about {_words(sum(expected))} on two quiet cores; results in {out}")
    encoded, results = Encoded(out / "vectors"), []
    for one, part, expected_s in zip(runs, parts, expected, strict=True):
        say(f"{one.name}: about {_words(expected_s)}")
        with _bars() as task:
            began = time.time()
            measured = part.measure(one, Tools(encoded, task))
        results.append(report.write(out, one, command, began, measured))
    return results


@contextmanager
def _bars() -> Iterator[Callable[[str, int], Any]]:
    """Give progress bars on standard error, one for each task."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
               TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        @contextmanager
        def task(words: str, steps: int) -> Iterator[Callable[[int], None]]:
            bar = progress.add_task(words, total=steps)
            yield lambda n: progress.advance(bar, n)
            progress.update(bar, completed=steps)

        yield task


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds)):d} s"
