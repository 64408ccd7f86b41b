"""`adaptd bench`: another door, to the benchmark, which runs daemons of its own."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptd.cli import options, show

if TYPE_CHECKING:
    from adaptd.bench.plan import Run
    from adaptd.bench.streams import Drift

DRIFTS = ("swap", "rename", "merge", "split", "gradual", "recurring", "none")
PEERS = ("cron", "frozen", "nearest-mean", "nearest-neighbours", "streaming-lda", "naive-bayes", "er-ace", "adaptive-classifier",
         "hoeffding-tree", "forest")


@click.command()
@click.argument("what", metavar="[PART|FILE]", default="all")
@click.option("--set", "name", metavar="NAME", help="One set only, e.g. clinc150, banking77, commit_stream.")
@click.option("--seed", "seeds", metavar="N", type=click.IntRange(0), multiple=True, default=(0, 1), show_default=True,
              help="A seed; may be given several times.")
@click.option("--adapt/--no-adapt", default=None, help="Adaptation on or off; without either, what the part asks for.")
@click.option("--last-only", is_flag=True, help="By class: test after the first and the last experience only.")
@click.option("--against", multiple=True, type=click.Choice(PEERS), help="A peer; may be given several times.")
@click.option("--drift", type=click.Choice(DRIFTS), default="swap", show_default=True,
              help="prequential: how the labels of ten classes change half-way, in a set without times.")
@click.option("--memories", metavar="N", type=click.IntRange(1000), default=15_000, show_default=True,
              help="speed: examples learned before.")
@click.option("--postgres", metavar="URL", help="ingest: a PostgreSQL server on which databases may be made, to measure it too.")
@click.option("--minutes", metavar="N", type=click.IntRange(1), default=60, show_default=True, help="soak: how long.")
@click.option("--each", metavar="N", type=click.IntRange(0), default=0, help="class-incremental: N rows of each class at most.")
@click.option("--model", metavar="MODEL",
              help="The encoder of images or sounds, another of texts, or what translates: a folder, or a hub name.")
@click.option("--prefix", metavar="TEXT", default="", help="What it wants before a text ('query: ' for e5).")
@click.option("--consolidate", is_flag=True, help="class-incremental: tune upper blocks of the encoder before the last test.")
@click.option("--events", metavar="N", type=click.IntRange(1), help="prequential: the last N events of a stream by time only; "
              "entities: N sentences learned; ranking: the first N ratings.")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The folder of the data sets.  [default: ../shared/data beside the project]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", default=Path("bench-results"),
              show_default=True, help="The folder for results and pictures.")
@click.option("--quick", is_flag=True, help="A small share of everything: to see that it works, not to quote.")
@options.json_option
def bench(what: str, name: str | None, seeds: tuple[int, ...], adapt: bool | None, last_only: bool,
          against: tuple[str, ...], drift: Drift, memories: int, postgres: str | None, minutes: int, each: int, model: str | None,
          prefix: str, consolidate: bool, events: int | None, data_dir: Path | None, out: Path, quick: bool,
          as_json: bool) -> None:
    """Measure adaptd and its rivals.

    PART is class-incremental, strategies, new-classes, prequential, heads, noise, memory, abstain, replies, entities, ranking,
    translation, review, weak, speed, latency, ingest, overload, gate, all (these), feeds or soak. FILE is your own .csv,
    .parquet or .jsonl with text, label and perhaps time, or another that `adaptd ingest` reads: it is answered and learned event
    by event, in the order of time.

    \b
    Example:
      adaptd bench class-incremental --set clinc150 --seed 0 --no-adapt
      adaptd bench tickets.csv --against cron
    """
    from dataclasses import replace

    from adaptd.bench import run

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no daemon is left behind
    chosen = list(_runs(what, name, seeds, adapt))
    model = str(Path(model).resolve()) if model and Path(model).is_dir() else model
    filled = [replace(one, quick=quick, last_only=last_only, peers=against, drift=drift, memories=memories, postgres=postgres,
                      minutes=minutes, each=each, data=data_dir, model=model, prefix=prefix, consolidate=consolidate,
                      events=events) for one in chosen]
    results = run(filled, out, shlex.join(["adaptd", *sys.argv[1:]]), show.say)
    _report(results, out, as_json)


def _runs(what: str, name: str | None, seeds: Sequence[int], adapt: bool | None) -> Iterator[Run]:
    """List what is asked for."""
    from adaptd.bench.plan import ADAPT, ASKED_FOR, PARTS, SETS, UNSEEDED, Run

    if what != "all" and what not in PARTS:
        file = Path(what)
        if not file.is_file():
            raise click.UsageError(f"{what!r} is neither a file nor one of {', '.join(PARTS)}, all")
        yield Run(part="prequential", set=file.stem, seed=0, adapt=adapt is not False, file=file)
        return
    for part in (part for part in PARTS if part == what or (what == "all" and part not in ASKED_FOR)):
        for one in (name,) if name else SETS[part]:
            by_time = part in ("prequential", "memory") and one in ("commit_stream", "elec2", "outdoor", "fsdd")
            timed = part == "heads" or by_time
            for seed in seeds[:1] if part in UNSEEDED or timed else seeds:
                for switched in ADAPT[part] if adapt is None else (adapt,):
                    yield Run(part=part, set=one, seed=seed, adapt=switched)


def _report(results: Sequence[dict[str, Any]], out: Path, as_json: bool) -> None:
    from adaptd.bench import report

    if as_json:
        show.data(results)
    for result in () if as_json else results:
        show.line("")
        show.line(result["name"] + (" (not to be quoted)" if result["quick"] else ""))
        show.table(*report.table(result))
    drawn = report.pictures(results, out)
    show.say(f"results{' and pictures' if drawn else ''} in {out}")
