"""Translations before and after a stream of corrections: the figures of docs/translate.md.

`python measure_translation.py DATA FOLDER` reads DATA/mt_multi30k, English to German, captions of at most 11 words. No pretrained
model is at hand: a small one is trained from scratch on the captions of the training part that are not about sport, and kept in
FOLDER. Two streams follow, each pair translated before it is taught, with nothing in memory at first:

new: captions about sport, which the model has never seen.
terms: other captions that it has not seen, with a customer's words for some German ones, in all of them: what a style guide asks.

At the end of each the held-out captions of the stream's kind, and old ones, are translated; they are never taught. "With LoRA" is
trained anew after each hundred pairs, on all that were taught by then, and goes live unasked; at the end it is said what the gate
says of it beside adaptd without, over the held-out captions of the stream's kind.
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from adaptd import Brief, Example, Lesson, Paired, Remembered
from adaptd.gate import NotWorse
from adaptd.model.encoder import Transformers
from adaptd_translate import Translate, small
from adaptd_translate.quality import scores
from adaptd_translate.translator import Translator

SPORT = re.compile(r"\b(ball|soccer|football|baseball|basketball|tennis|hockey|volleyball|golf|game|player|team|goal|bat|racket"
                   r"|rac(e|ing)|surf|ski|snowboard|skateboard|skat|wrestl|box|karate|gymnas|swim|climb|jump|athlet|score)",
                   re.IGNORECASE)
TERMS = {"Hund": "Vierbeiner", "Hunde": "Vierbeiner", "Mädchen": "Fräulein", "Junge": "Bube", "Jungen": "Buben",
         "Hemd": "Oberteil", "Straße": "Gasse", "Kind": "Sprössling", "Kinder": "Sprösslinge"}
LONGEST, EPOCHS, MORE = 11, 14, 4  # words of a caption; of training, and of training again on all
ADAPT, RATE = 100, 3e-3  # pairs after which LoRA weights are trained, and how; chosen on other captions, as is trust
STREAM, HELD = 300, 150
TOGETHER = 16
Pair = tuple[str, str]
Vectors = np.ndarray


class Memory:
    """Remembered pairs, and which are nearest: those that the daemon's memory would give."""

    def __init__(self, encoder: Transformers) -> None:
        self._encoder = encoder
        self.pairs: list[Pair] = []
        self._vectors: list[Vectors] = []

    def encoded(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts."""
        found = [self._encoder.encode([Example(text=text) for text in texts[at : at + 64]])[0] for at in range(0, len(texts), 64)]
        return torch.cat(found).float().numpy()

    def near(self, vector: Vectors, count: int) -> list[Remembered]:
        """Return the nearest pairs."""
        if not self.pairs:
            return []
        likeness = np.stack(self._vectors) @ vector
        return [Remembered(text=self.pairs[row][0], reply=self.pairs[row][1], similarity=float(likeness[row]))
                for row in np.argsort(-likeness, kind="stable")[:count].tolist()]

    def learn(self, pair: Pair, vector: Vectors) -> None:
        """Remember a pair."""
        self.pairs.append(pair)
        self._vectors.append(vector)


def main(data: Path, folder: Path) -> None:
    """Train what is not there, go through both streams, print the figures."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    old, later, new = read(data)
    if not (folder / "model.safetensors").exists():
        small.fresh(folder, old)
        small.train(folder, old, epochs=EPOCHS)
    drawn = random.Random(0)
    drawn.shuffle(later)
    drawn.shuffle(new)
    terms = [(source, termed(target)) for source, target in later if termed(target) != target]
    known = [pair for pair in later if termed(pair[1]) == pair[1]][:HELD]  # what no stream has, and no word of a customer's
    encoder = Transformers()
    encoder.load()
    for name, pairs, held in (("new", new[HELD:][:STREAM], new[:HELD]), ("terms", terms[HELD // 2 :], terms[: HELD // 2])):
        print(f"\n{name}: {len(pairs)} pairs in the stream, {len(held)} held out, {len(known)} old ones held out")
        stream(folder, encoder, pairs, held, known, old, terms=name == "terms")


def read(data: Path) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Return the pairs to train on, others of their kind, and those about sport."""
    with gzip.open(data / "mt_multi30k" / "data.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if len(row["en"].split()) <= LONGEST]
    plain = [row for row in rows if not SPORT.search(row["en"])]
    return ([(row["en"], row["de"]) for row in plain if row["split"] == "train"],
            [(row["en"], row["de"]) for row in plain if row["split"] != "train"],
            [(row["en"], row["de"]) for row in rows if SPORT.search(row["en"])])


def termed(text: str) -> str:
    """Return a translation with the customer's words."""
    return re.sub(r"\w+", lambda word: TERMS.get(word[0], word[0]), text)


def stream(folder: Path, encoder: Transformers, pairs: Sequence[Pair], held: Sequence[Pair], known: Sequence[Pair],
           old: Sequence[Pair], *, terms: bool) -> None:
    """Go through one stream, and translate what is held out; print BLEU and chrF of each way."""
    translator = Translator(Translate(model=str(folder), threads=1))
    translator.load()
    tuned = translator
    memory, seconds = Memory(encoder), dict[str, float]()
    answers: dict[str, list[str]] = defaultdict(list)
    vectors = memory.encoded([source for source, _ in pairs])
    for at, (pair, vector) in enumerate(zip(pairs, vectors, strict=True)):
        near = memory.near(vector, translator.options.pairs)
        began = time.process_time()
        answers["adaptd"] += written(translator, [Brief(text=pair[0], remembered=near)])
        seconds["adaptd"] = seconds.get("adaptd", 0.0) + time.process_time() - began
        began = time.process_time()
        answers["frozen model"] += written(translator, [Brief(text=pair[0])])
        seconds["frozen"] = seconds.get("frozen", 0.0) + time.process_time() - began
        answers["adaptd with LoRA"] += written(tuned, [Brief(text=pair[0], remembered=near)])
        answers["nearest pair's translation"].append(near[0].reply if near else "")
        memory.learn(pair, vector)
        if (at + 1) % ADAPT == 0 or at + 1 == len(pairs):
            tuned = adapted(folder, memory.pairs)
        if at + 1 in (100, len(pairs)):
            told(f"stream, first {at + 1}", answers, [target for _, target in pairs[: at + 1]])
    print(f"time of adaptd / of the bare model: {seconds['adaptd'] / seconds['frozen']:.2f}")
    if terms:
        used(answers, pairs)
    again = folder.with_name(f"{folder.name}-{'terms' if terms else 'new'}")
    if not (again / "model.safetensors").exists():
        small.train(folder, [*old, *list(pairs) * 3], epochs=MORE, rate=7e-4, warm=50, into=again)
    trained = Translator(Translate(model=str(again), threads=1))
    trained.load()
    for name, some in (("held out", held), ("old", known)):
        sources = [source for source, _ in some]
        nearest = [memory.near(vector, translator.options.pairs) for vector in memory.encoded(sources)]
        briefs = [Brief(text=s, remembered=n) for s, n in zip(sources, nearest, strict=True)]
        found = {"adaptd": written(translator, briefs),
                 "adaptd with LoRA": written(tuned, briefs),
                 "frozen model": written(translator, [Brief(text=s) for s in sources]),
                 "nearest pair's translation": [n[0].reply for n in nearest],
                 "fine-tuned on all at the end": written(trained, [Brief(text=s) for s in sources])}
        told(name, found, [target for _, target in some])
        if some is held:
            judged(translator, found["adaptd with LoRA"], found["adaptd"], [target for _, target in some])


def adapted(folder: Path, pairs: Sequence[Pair]) -> Translator:
    """Return one that was trained to pairs, as an adaptation does it."""
    began = time.process_time()
    pupil, made = (Translator(Translate(model=str(folder), threads=1, rate=RATE)) for _ in range(2))
    pupil.load()
    weights = pupil.train(Lesson(pairs=pairs, seed=0, device="cpu", progress=lambda done, words: None))
    made.load()
    made.adopt(weights)
    print(f"LoRA trained on {len(pairs)} pairs in {time.process_time() - began:.0f} s of the processor, {len(weights):,} bytes")
    return made


def judged(translator: Translator, candidate: Sequence[str], champion: Sequence[str], truths: Sequence[str]) -> None:
    """Print what the gate says of the one beside the other."""
    pairs = [(translator.score(one, truth), translator.score(other, truth))
             for one, other, truth in zip(candidate, champion, truths, strict=True)]
    verdict = NotWorse().judge(Paired(candidate=[one >= other for one, other in pairs],
                                      champion=[one <= other for one, other in pairs], classes=["text"] * len(pairs)))
    print(f"gate: {verdict.decision}: {verdict.reasons[0]}")


def written(translator: Translator, briefs: Sequence[Brief]) -> list[str]:
    """Return translations."""
    parts = (briefs[at : at + TOGETHER] for at in range(0, len(briefs), TOGETHER))
    return [one.text or "" for part in parts for one in translator.write(part)]


def told(what: str, answers: dict[str, list[str]], truths: Sequence[str]) -> None:
    """Print BLEU and chrF."""
    for name, found in answers.items():
        bleu, chrf = scores(found, truths)
        print(f"{what}: {name}: BLEU {bleu:.1f}, chrF {chrf:.1f}", flush=True)


def used(answers: dict[str, list[str]], pairs: Sequence[Pair]) -> None:
    """Print how often a customer's word is used where it is asked for, by how often it had been taught before."""
    for name, found in answers.items():
        seen, hits = defaultdict[str, int](int), defaultdict[int, list[bool]](list)
        for answer, (_, target) in zip(found, pairs, strict=True):
            for term in set(asked(target)):
                hits[min(seen[term], 10)].append(term in asked(answer))
                seen[term] += 1
        print(f"{name}: word used after n corrections: " + ", ".join(
            f"{count}{'+' if count == 10 else ''}: {sum(some)} of {len(some)}" for count, some in sorted(hits.items())))


def asked(text: str) -> Iterator[str]:
    """Yield the customer's words in a text."""
    return (word for word in re.findall(r"\w+", text) if word in TERMS.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
