"""What is to be run: one `Run` is one result file. Every part can be run by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from adaptd.bench import sets
from adaptd.bench.streams import Drift
from adaptd.bench.vectors import Encoded

Part = Literal["class-incremental", "strategies", "consolidation", "new-classes", "prequential", "heads", "noise", "memory",
               "abstain", "replies", "entities", "ranking", "translation", "review", "weak", "speed", "latency", "ingest",
               "feeds", "overload", "gate", "soak"]
PARTS: tuple[Part, ...] = get_args(Part)
SETS: dict[Part, tuple[str, ...]] = {
    "class-incremental": ("clinc150", "banking77"), "strategies": ("clinc150", "banking77"),
    "consolidation": ("phrasebank", "banking77"), "new-classes": ("clinc150", "banking77"),
    "prequential": ("commit_stream", "clinc150"), "heads": ("airline_tweets", "reuters_stream"),
    "noise": ("clinc150", "banking77"), "memory": ("clinc150", "commit_stream"),
    "abstain": ("clinc150", "banking77"), "replies": ("banking77", "bank_faq"),
    "entities": ("ner_wikigold", "ner_sec_filings", "ner_wnut17", "ner_wikigold+ner_sec_filings+ner_wnut17"),
    "ranking": ("movielens100k",), "translation": ("mt_multi30k",), "review": ("clinc150", "banking77"),
    "weak": ("clinc150", "banking77", "snips"), "speed": ("clinc150",),
    "latency": ("clinc150", "digits8x8", "elec2"), "ingest": ("clinc150",), "feeds": ("clinc150",),
    "overload": ("clinc150",), "gate": ("power", "lost-class", "month"), "soak": ("clinc150",)}
ADAPT: dict[Part, tuple[bool, ...]] = {
    "class-incremental": (False, True), "strategies": (True,), "consolidation": (False,), "new-classes": (False,),
    "prequential": (True,), "heads": (False,), "noise": (False,), "memory": (False,), "abstain": (False,), "replies": (False,),
    "entities": (False,), "ranking": (False,), "translation": (False,), "review": (False,), "weak": (False,),
    "speed": (False,), "latency": (False,), "ingest": (False,), "feeds": (False,), "overload": (False,), "gate": (False,),
    "soak": (True,)}
UNSEEDED: tuple[Part, ...] = ("ranking", "translation", "speed", "latency", "ingest", "feeds", "overload", "gate", "soak")
RATIOS: tuple[Part, ...] = ("speed", "latency", "ingest", "overload", "soak")  # tables of what was measured beside its measure
ASKED_FOR: tuple[Part, ...] = ("feeds", "soak")  # by its name alone, not by "all"
QUICK_EXPERIENCES, QUICK_ROWS, QUICK_TESTS, QUICK_EVENTS = 3, 30, 5, 600

# Seconds on two quiet cores (AMD EPYC, Zen 4), to say beforehand how long a run takes; no figure rests on them.
LEARN_S, ANSWER_S, ADAPT_S, PEERS_S = 0.010, 0.005, 45.0, 60.0

Task = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]  # (words, steps) -> a bar to advance


@dataclass(frozen=True, kw_only=True)
class Run:
    """One benchmark run."""

    part: Part
    set: str
    seed: int
    adapt: bool
    quick: bool = False
    last_only: bool = False  # test after the first and the last experience only
    peers: Sequence[str] = ()
    drift: Drift = "swap"  # of the prequential part, where the set has no times
    memories: int = 15_000  # of the speed part
    postgres: str | None = None  # of the ingest part: a server on which databases may be made
    minutes: int = 60  # of the soak
    each: int = 0  # rows of a class in each split at most, drawn by the seed; 0 = all
    data: Path | None = None
    model: str | None = None  # the encoder of images or sounds, or another one of texts: a folder, or a hub name
    prefix: str = ""  # what it wants before a text
    consolidate: bool = False  # once, before the last test
    events: int | None = None  # of a stream by time the last so many, of sentences and ratings the first
    file: Path | None = None  # a user's own, instead of a set

    @property
    def name(self) -> str:
        """The result's file name."""
        adapt = "adapt" if self.adapt else "no-adapt"
        drift = f"-{self.drift}" if self.drift != "swap" else ""
        kind = drift + ("-consolidated" if self.consolidate else "")
        kind += ("-last-only" if self.last_only else "") + ("-quick" if self.quick else "")
        each = f"-each{self.each}" if self.each else ""
        return f"{self.part}-{self.set}-seed{self.seed}-{adapt}{each}{kind}"

    def load(self) -> sets.DataSet:
        """Read the data."""
        if self.file:
            return sets.read_file(self.file)
        data = sets.load(self.set, sets.data_folder(self.data), self.model, self.prefix)
        return data.sampled(self.each, self.seed) if self.each else data


@dataclass(frozen=True)
class Tools:
    """What every part is given beside its run."""

    encoded: Encoded
    task: Task


def estimate_s(learned: int, answered: int, *, adapt: bool) -> float:
    """Say how long a run takes on two quiet cores, in seconds."""
    adapting = learned / 1000 * ADAPT_S if adapt else 0.0
    return learned * LEARN_S + answered * ANSWER_S + adapting + PEERS_S
