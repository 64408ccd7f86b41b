"""Compare: candidate and champion write the same held-out texts, each as if its pair had never been taught. A child process.

`python -m adaptd.compare FOLDER` reads what a job of `adaptd.finetune` left. Each held-out text is written with what memory would
give beside it, its own pair and others of the same content left out; so what is judged is what people would be answered. How good
a text is beside the taught one the generator says itself, from 0 to 1, and so which of the two comes `nearer`. It is the
mechanical check as well: the candidate's file is loaded from the disk, and the generator must take its weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adaptd.errors import TrainingFailed
from adaptd.evaluate import held_out
from adaptd.finetune import opened
from adaptd.generator import refused, written
from adaptd.interfaces import Trainable
from adaptd.model import files
from adaptd.records import Brief, Remembered
from adaptd.trainer import exit_code, progress, write

JUDGED = 500  # held-out texts at most, the newest: writing one twice takes up to seconds
TOGETHER = 16


def briefs(tensors: Mapping[str, Tensor], pairs: Sequence[tuple[str, str]], held: Tensor, count: int) -> Iterator[Brief]:
    """Yield what the held-out rows are written from: the nearest remembered rows beside each, none of its own content."""
    remembered = torch.nonzero(tensors["retrievable"]).view(-1)
    keys = tensors["vectors"][remembered].float()
    for row in held.tolist():
        likeness = keys @ tensors["vectors"][row].float()
        likeness[tensors["content"][remembered] == tensors["content"][row]] = -torch.inf
        places = likeness.argsort(descending=True, stable=True)[:min(count, int((likeness > -torch.inf).sum()))]
        near = zip(likeness[places].tolist(), [pairs[one] for one in remembered[places].tolist()], strict=True)
        yield Brief(text=pairs[row][0], remembered=[Remembered(text=text, reply=taught, similarity=similarity)
                                                    for similarity, (text, taught) in near])


def scores(made: Trainable, weights: bytes | None, asked: Sequence[Brief], taught: Sequence[str], words: str) -> list[float]:
    """Return how good each text is that is written with these weights."""
    found: list[float] = []
    if (why := refused(made, weights)) is not None and words == "candidate":
        raise TrainingFailed(f"the generator does not take what it was trained to: {why['message']}")
    for start in range(0, len(asked), TOGETHER):
        progress(start / len(asked), words)
        part = slice(start, start + TOGETHER)
        texts = zip(written(made, asked[part]), taught[part], strict=True)
        found += [float(made.score(one.text or "", truth)) for one, truth in texts]
    if not all(0.0 <= score <= 1.0 for score in found):
        raise TrainingFailed("the generator's score must be from 0 to 1")
    return found


def run(folder: Path) -> None:
    """Judge a job's candidate; write `out/scores.safetensors`."""
    _, domain, made = opened(folder)
    tensors, _ = files.parse((folder / "in" / "judged.safetensors").read_bytes(), "rows")
    pairs: list[tuple[str, str]] = json.loads((folder / "in" / "judged.json").read_text("utf-8"))
    held = held_out(tensors)[-JUDGED:]
    asked, taught = list(briefs(tensors, pairs, held, domain.evidence)), [pairs[row][1] for row in held.tolist()]
    found: dict[str, Tensor] = {"rows": held}
    for name, place in (("champion", "in"), ("candidate", "out")):
        adapter = files.parse_adapter((folder / place / "adapter.safetensors").read_bytes(), name)
        weights = None if adapter.weights is None else adapter.weights.file
        found[name] = torch.tensor(scores(made, weights, asked, taught, name), dtype=torch.float64)
    found["nearer"] = torch.sign(found["candidate"] - found["champion"]).long()
    write(folder / "out" / "scores.safetensors", files.dump(found, {}))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(Path(sys.argv[1]))))
