"""Translation: streams of corrections, beside the bare model, a translation memory, and a model that is fine-tuned at the end.

Captions in English and German of a few words. Where no model is named a small one is trained on those of the training part that
are not about sport (`adaptd_translate/small.py`, in a process of its own). Two streams follow, each pair translated before it is
taught, with nothing in memory at first:

new: captions about sport, which the model has never seen.
terms: others that it has not seen, with a customer's words for some German ones, in all of them: what a style guide asks.

At the end held-out captions of the stream's kind, and old ones, are translated; they are never taught. "With LoRA" is adapted
after each hundred pairs, and the candidate promoted by hand, whatever the gate says: what that said stands beside the table.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adaptd.bench import sets
from adaptd.bench.daemon import ADAPT_S, Daemon
from adaptd.bench.plan import Run, Tools
from adaptd.bench.sets import Setting
from adaptd.bench.speed import milliseconds
from adaptd.bench.streams import percent
from adaptd.errors import AdaptdError, MissingExtra

SPORT = re.compile(r"\b(ball|soccer|football|baseball|basketball|tennis|hockey|volleyball|golf|game|player|team|goal|bat|racket"
                   r"|rac(e|ing)|surf|ski|snowboard|skateboard|skat|wrestl|box|karate|gymnas|swim|climb|jump|athlet|score)",
                   re.IGNORECASE)
TERMS = {"Hund": "Vierbeiner", "Hunde": "Vierbeiner", "Mädchen": "Fräulein", "Junge": "Bube", "Jungen": "Buben",
         "Hemd": "Oberteil", "Straße": "Gasse", "Kind": "Sprössling", "Kinder": "Sprösslinge"}
LONGEST, STREAM, HELD, OLD, OFTEN = 11, 300, 150, 150, 10  # words of a caption; pairs; corrections that are many
MORE = ("--epochs", "4", "--rate", "7e-4", "--warm", "50")  # how it is fine-tuned, on old captions and three times the new ones
AGAIN = 3
ADAPT, RATE, TRUST = 100, 3e-3, 0.5  # pairs after which LoRA weights are trained, and how; another trust in remembered pairs
TRAIN_S, QUICK, KNOWN = 3600.0, 20, 50  # pairs that are known when costs are measured, and so many are asked
BARE = "the model alone, frozen"
Pair = tuple[str, str]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Pairs in the order in which they come, and what is asked at the end."""

    pairs: Sequence[Pair]
    held: Sequence[Pair]
    old: Sequence[Pair]


@dataclass(kw_only=True)
class Said:
    """What one way has answered, in the stream and at the end."""

    stream: list[Json] = field(default_factory=list)
    held: list[Json] = field(default_factory=list)
    old: list[Json] = field(default_factory=list)


def prepare(run: Run) -> tuple[list[Pair], dict[str, Stream]]:
    """Return the pairs that a model is trained on where there is none, and the streams; drawn by the seed."""
    with gzip.open(sets.data_folder(run.data) / run.set / "data.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if len(row["en"].split()) <= LONGEST]
    plain = [row for row in rows if not SPORT.search(row["en"])]
    base, later = ([(row["en"], row["de"]) for row in plain if (row["split"] == "train") == known] for known in (True, False))
    new = [(row["en"], row["de"]) for row in rows if SPORT.search(row["en"])]
    drawn = random.Random(run.seed)
    drawn.shuffle(later)
    drawn.shuffle(new)
    terms = [(source, termed(target)) for source, target in later if termed(target) != target]
    old = [pair for pair in later if termed(pair[1]) == pair[1]]
    few = QUICK if run.quick else len(rows)
    streams = {"new": Stream(pairs=new[HELD:][:STREAM][:few], held=new[:HELD][:few], old=old[:OLD][:few]),
               "terms": Stream(pairs=terms[HELD // 2:][:few], held=terms[:HELD // 2][:few], old=old[:OLD][:few])}
    return base[:5 * few], {"new": streams["new"]} if run.quick else streams


def termed(text: str) -> str:
    """Return a translation with the customer's words.

    >>> termed("Der Hund schläft.")
    'Der Vierbeiner schläft.'
    """
    return re.sub(r"\w+", lambda word: TERMS.get(word[0], word[0]), text)


def expected_s(run: Run) -> float:
    """Say how long it takes; training is most of it."""
    return 60.0 if run.quick else 900.0


def measure(run: Run, tools: Tools) -> Json:
    """Give each stream to daemons that learn in several ways, and to two that do not: the bare model, and one fine-tuned."""
    base, streams = prepare(run)
    rows, verdicts = list[Json](), list[str]()
    with tempfile.TemporaryDirectory(prefix="adaptd-bench-") as scratch, tools.task(run.name, 2 + 5 * len(streams)) as advance:
        model = run.model or _trained(Path(scratch) / "model", base, *(("--epochs", "1") if run.quick else ()))
        advance(1)
        for name, stream in streams.items():
            tuned = _trained(Path(scratch) / name, [*base, *list(stream.pairs) * AGAIN], "--of", model, *MORE)
            ways: Mapping[str, Callable[[], Said]] = {
                BARE: partial(_lives, model, stream, taught=False),
                "adaptd": partial(_lives, model, stream), f"adaptd, trust {TRUST}": partial(_lives, model, stream, trust=TRUST),
                "adaptd with LoRA": partial(_lives, model, stream, verdicts=verdicts),
                "fine-tuned at the end": partial(_lives, tuned, replace(stream, pairs=()), taught=False)}
            found = {}
            for way, live in ways.items():
                found[way] = live()
                advance(1)
            rows += list(_rows(name, stream, found))
        costs = _costs(model, streams["new"])
        advance(1)
    sizes = "; ".join(f"{name}: {len(one.pairs)} pairs, {len(one.held)} held out" for name, one in streams.items())
    return {"rows": rows, "verdicts": verdicts, "remark": f"{sizes}; {len(next(iter(streams.values())).old)} old ones. Gate: " + (
        ", ".join(f"{verdicts.count(said)} {said}" for said in sorted(set(verdicts)))) + f". {costs}"}


def _trained(folder: Path, pairs: Sequence[Pair], *how: str) -> str:
    """Train a model in a process of its own; return its folder."""
    file = folder.with_suffix(".jsonl")
    file.write_text("".join(json.dumps({"text": source, "label": target}) + "\n" for source, target in pairs), encoding="utf-8")
    done = subprocess.run([sys.executable, "-P", "-m", "adaptd_translate.small", file, folder, *how],
                          capture_output=True, text=True, timeout=TRAIN_S, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise AdaptdError(f"no model was trained: {last[0]}", hint="pip install adaptd-translate, or name a model: --model DIR")
    return str(folder)


def _served(model: str, trust: float | None = None) -> Setting:
    options = {"model": model, "threads": 1, "rate": RATE, **({} if trust is None else {"trust": trust})}
    return Setting(domain="translate", config=f"""
[plugins]
allow = ["adaptd-translate"]
[domains.translate.options]
{"".join(f"{name} = {json.dumps(value)}{chr(10)}" for name, value in options.items())}
[domains.translate.adapt]
every_labels = 0
min_labels = 10
""")


def _costs(model: str, stream: Stream) -> str:
    """Say what an answer and a pair that is taught cost over HTTP, beside an answer of a daemon that knows no pairs; in turns."""
    took = defaultdict[str, list[float]](list)
    known, asked = stream.pairs[:KNOWN], stream.pairs[KNOWN:2 * KNOWN] or stream.pairs
    with Daemon(adapt=False, setting=_served(model)) as bare, Daemon(adapt=False, setting=_served(model)) as ours:
        ours.learn(*zip(*known, strict=True))
        for source, target in asked:
            took["bare"].append(milliseconds(partial(bare.asked, [source])))
            took["asked"].append(milliseconds(partial(ours.asked, [source])))
            took["taught"].append(milliseconds(partial(ours.learn, [source], [target])))
    bare_ms, asked_ms, taught_ms = (float(np.median(took[what])) for what in ("bare", "asked", "taught"))
    return (f"Over HTTP, medians beside an answer of a daemon that knows no pairs ({bare_ms:.0f} ms): an answer "
            f"{asked_ms / bare_ms:.2f} times, a pair that is taught, learned, {taught_ms / bare_ms:.2f} times.")


def _lives(model: str, stream: Stream, *, taught: bool = True, trust: float | None = None,
           verdicts: list[str] | None = None) -> Said:
    """Translate the stream, taught after each answer; `verdicts`: adapted, too, and what the gate said goes there."""
    said = Said()
    with Daemon(adapt=verdicts is not None, setting=_served(model, trust)) as daemon:
        for at, (source, target) in enumerate(stream.pairs, 1):
            said.stream += daemon.asked([source])
            if taught:
                daemon.feedback([said.stream[-1]["event"]], [target])
            if verdicts is not None and (at % ADAPT == 0 or at == len(stream.pairs)):
                verdicts.append(_adapted(daemon))
        said.held, said.old = (daemon.asked([source for source, _ in pairs]) for pairs in (stream.held, stream.old))
    return said


def _adapted(daemon: Daemon) -> str:
    """Adapt and promote; return what the gate said."""
    outcome = daemon.main.call("POST", "/v1/translate/adapt", {"wait": True}, timeout_s=ADAPT_S)
    if outcome["verdict"] != "promote":
        daemon.main.call("POST", "/v1/translate/promote", {"to": outcome["version"], "force": True, "reason": "bench"})
    return str(outcome["verdict"])


def _rows(name: str, stream: Stream, found: Mapping[str, Said]) -> Iterator[Json]:
    memory = found["adaptd"]
    texts = {way: tuple(list(map(_text, part)) for part in (said.stream, said.held, said.old)) for way, said in found.items()}
    texts["translation memory"] = tuple(list(map(_nearest, part)) for part in (memory.stream, memory.held, memory.old))
    old = {way: _scores(answers, stream.old) for way, (_, _, answers) in texts.items()}
    for way, (answers, held, _) in texts.items():
        as_answered, at_last = _scores(answers, stream.pairs), _scores(held, stream.held)
        yield {"method": way, "what": name,
               "BLEU in the stream": as_answered[0], "chrF in the stream": as_answered[1],
               "BLEU": at_last[0], "chrF": at_last[1], "old BLEU": old[way][0], "old chrF": old[way][1],
               "forgetting, BLEU": old[BARE][0] - old[way][0],
               **{f"words taught {often}": share for often, share in _used(answers, stream.pairs).items()}}


def _text(answer: Json) -> str:
    return answer["label"] or ""


def _nearest(answer: Json) -> str:
    """Return what a translation memory says: the translation of the nearest pair."""
    return answer["remembered"][0]["translation"] if answer["remembered"] else ""


def _scores(answers: Sequence[str], pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return BLEU (Papineni et al., 2002) and chrF (Popović, 2015); nan where nothing was asked."""
    try:
        metrics = importlib.import_module("sacrebleu.metrics")
    except ImportError:
        raise MissingExtra("BLEU needs sacrebleu", hint="pip install adaptd-translate") from None
    truths = [target for _, target in pairs]
    if not answers:
        return math.nan, math.nan
    return tuple(metric.corpus_score(answers, [truths]).score for metric in (metrics.BLEU(), metrics.CHRF()))


def _used(answers: Sequence[str], pairs: Sequence[Pair]) -> dict[str, float]:
    """Return how often a customer's word is used where it is asked for, in percent, by how often it had been taught before."""
    seen, hits = Counter[str](), defaultdict[bool, list[bool]](list)
    for answer, (_, target) in zip(answers, pairs, strict=False):  # who was not asked in the stream has no answers
        for term in sorted(_terms(target)):
            if seen[term]:
                hits[seen[term] >= OFTEN].append(term in _terms(answer))
            seen[term] += 1
    return {often: percent(np.array(hits[many], dtype=bool)) for often, many in ((f"1-{OFTEN - 1}", False), (f"{OFTEN}+", True))}


def _terms(text: str) -> set[str]:
    return set(re.findall(r"\w+", text)) & set(TERMS.values())
