"""Training: a job's folder and its child process, the same for an adaptation and for one that is made again.

What a candidate's file is made of, and nothing else: the rows of its lineage at a seq, which of them were new, the
adapter that it began from, and `Recipe`. All of it stands in the store: rows and vectors in the tables, the rest in
the version's own metrics (`trained`). So equal inputs give equal bytes on a CPU, whatever process asks, whatever was
restarted, rolled back or compacted in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptd import heads, process
from adaptd.evaluate import held_out
from adaptd.model import files
from adaptd.model.attention import Adapter, Ints
from adaptd.model.evicted import Fetch
from adaptd.model.network import Head
from adaptd.records import Example, canonical
from adaptd.registry import publish

CONSOLIDATE = "consolidate"  # the strategy of a recipe that tunes upper blocks of the encoder (`adaptd.consolidate`)
FINETUNE = "finetune"  # and of one that trains what writes a domain's texts (`adaptd.finetune`)
BEYOND = 50_000  # evicted rows that a candidate is judged with: what bounds the judge's memory
GIVEN = ("vectors", "targets", "fresh")  # of the rows: what the trainer sees; held-out rows it never does


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that a candidate depends on; stored with it."""

    strategy: str
    options: Mapping[str, Any]
    seed: int
    device: str
    threads: int

    def facts(self) -> dict[str, Any]:
        """Return it for a version's metrics."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a child needs that reads events itself: the encoder as it is configured, and the events."""

    kind: str
    options: Mapping[str, Any]
    tunable: bool  # copies of its upper blocks can be tuned
    examples: Callable[[Sequence[int]], Mapping[int, Example]]  # event seqs -> what the encoder reads

    def facts(self) -> dict[str, Any]:
        """Return it for a job."""
        return {"kind": self.kind, "options": dict(self.options)}

    def texts(self, events: Sequence[int]) -> bytes:
        """Return the texts of events, for a file of a job's folder, which goes when the job is over."""
        found = self.examples(list(dict.fromkeys(events)))
        return json.dumps([found[event].text or "" for event in events]).encode()


@dataclass(frozen=True, kw_only=True)
class Writes:
    """What a child needs that trains, or judges, what writes a domain's texts."""

    domain: str
    kind: str | None
    options: Mapping[str, Any]
    folder: Path  # from which paths in the options are seen
    pairs: Callable[[str, Sequence[int]], Sequence[tuple[str, str]]]  # head, learned rows -> a text and what was taught of it

    @property
    def digest(self) -> str:
        """What the options are known by."""
        return hashlib.blake2b(canonical(dict(self.options)).encode(), digest_size=8).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return it for a job."""
        return {"domain": self.domain, "kind": self.kind, "options": dict(self.options), "folder": str(self.folder)}

    def file(self, head: str, rows: Tensor) -> bytes:
        """Return the pairs of rows, for a file of a job's folder, which goes when the job is over."""
        return json.dumps(self.pairs(head, rows.tolist())).encode()


@dataclass(frozen=True)
class Away:
    """The rows of a job that memory has evicted; their vectors are read where nobody waits for it."""

    places: Ints
    events: Ints
    fetch: Fetch

    def read_into(self, vectors: Tensor) -> None:
        """Read their vectors to their places."""
        for start in range(0, len(self.places), 1024):
            events = self.events[start : start + 1024].tolist()
            found = self.fetch(events)
            vectors[torch.from_numpy(self.places[start : start + 1024])] = torch.stack([found[event] for event in events])


def rows(head: Head, after: int) -> tuple[dict[str, Tensor], Away]:
    """Copy a head's alive rows in the order of their birth; those born after a seq are new. Some vectors are to be read."""
    found, kept = head.bounded.columns(BEYOND)
    groups = {content: place for place, content in enumerate(dict.fromkeys(found["content"].tolist()))}
    vectors = torch.zeros(len(found), head.options.dim, dtype=torch.float16)
    slots = [head.memory.slot_of[row] for row in found["id"][kept].tolist()]
    vectors[torch.from_numpy(kept)] = head.memory.vectors[slots]
    tensors = {
        "vectors": vectors,
        "targets": torch.from_numpy(found["target"].astype(np.int64)),
        "holdout": torch.from_numpy(found["holdout"].astype(np.uint8)),
        "retrievable": torch.from_numpy(kept.astype(np.uint8)),
        "order": torch.from_numpy(found["order"].copy()),
        "fresh": torch.from_numpy((found["born"] > after).astype(np.uint8)),
        "born": torch.from_numpy(found["born"].astype(np.int64)),
        "id": torch.from_numpy(found["id"].astype(np.int64)),
        "event": torch.from_numpy(found["event"].astype(np.int64)),
        "content": torch.tensor([groups[content] for content in found["content"].tolist()], dtype=torch.int64),
    }
    return tensors, Away(np.flatnonzero(~kept), found["event"][~kept], head.bounded.gone.fetch)


def judging(head: Head) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a head is judged with beside its rows: its trust, and what shapes it."""
    facts = {"labels": head.labels, "learned": head.learned, "features": head.options.features, "seed": head.options.seed,
             "neighbours": head.options.neighbours, "strength": head.strength(), "kind": heads.facts(head.options.kind),
             **head.fold.facts()}
    return {"trust": head.fold.trust, "trust_at": head.fold.at}, facts


def judged(head: Head, after: int) -> tuple[dict[str, Tensor], dict[str, Any], Adapter, Away]:
    """Copy what a job needs of a head; in the learner's thread, with the ridge solved."""
    tensors, away = rows(head, after)
    folds, facts = judging(head)
    return tensors | folds, facts, head.adapter, away


def write(folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], labels: Sequence[str], adapter: Adapter, *,
          seq: int, plugins: Sequence[str], reads: Reads | None = None) -> None:
    """Write a job's folder: `in/` as `adaptd.trainer` reads it, with the rows born up to a seq, and an empty `out/`.

    With `reads` it is for `adaptd.consolidate`, with the rows' texts.
    """
    job = _job(recipe, labels, plugins)
    rows, texts = given(tensors, seq), {}
    if reads is not None:
        job["encoder"] = reads.facts()
        del rows["vectors"]  # it makes its own
        texts["texts.json"] = reads.texts(tensors["event"][seen(tensors, seq)].tolist())
    publish(folder / "in", {
        "job.json": json.dumps(job).encode(),
        "adapter.safetensors": files.dump_adapter(adapter),
        "rows.safetensors": files.dump(rows, {"labels": list(labels)}),
        **texts,
    })
    (folder / "out").mkdir()


def write_lesson(folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], labels: Sequence[str], adapter: Adapter, head: str,
                 writes: Writes, *, seq: int, plugins: Sequence[str]) -> None:
    """Write a job's folder: `in/` as `adaptd.finetune` reads it, with the pairs taught up to a seq, and an empty `out/`."""
    rows = {name: tensors[name][seen(tensors, seq)] for name in ("id", "fresh", "content")}
    held = sorted(set(tensors["content"][tensors["holdout"] == 1].tolist()))
    publish(folder / "in", {
        "job.json": json.dumps(_job(recipe, labels, plugins) | {"domain": writes.facts(), "held": held}).encode(),
        "adapter.safetensors": files.dump_adapter(adapter),
        "rows.safetensors": files.dump(rows, {}),
        "pairs.json": writes.file(head, rows["id"]),
    })
    (folder / "out").mkdir()


def _job(recipe: Recipe, labels: Sequence[str], plugins: Sequence[str]) -> dict[str, Any]:
    return {**recipe.facts(), "labels": list(labels), "parent_pid": os.getpid(), "plugins": list(plugins)}


def seen(tensors: Mapping[str, Tensor], seq: int) -> Tensor:
    """Say which rows the trainer sees: memory and experience, born up to a seq, the held-out ones not among them."""
    return (tensors["holdout"] == 0) & ((tensors["retrievable"] == 1) | (tensors["fresh"] == 1)) & (tensors["born"] <= seq)


def given(tensors: Mapping[str, Tensor], seq: int) -> dict[str, Tensor]:
    """Return what the trainer sees of the rows."""
    return {name: tensors[name][seen(tensors, seq)] for name in GIVEN}


def go_on(folder: Path, tensors: Mapping[str, Tensor], labels: Sequence[str], seq: int) -> bool:
    """Let a job that an earlier process wrote go on under this one; False where its rows are not what they were."""
    job = json.loads((folder / "in" / "job.json").read_text())
    then, _ = files.parse((folder / "in" / "rows.safetensors").read_bytes(), "rows")
    rows = seen(tensors, seq)
    if list(labels[:len(job["labels"])]) != job["labels"] or not all(torch.equal(tensors[name][rows], one)
                                                                     for name, one in then.items()):
        return False
    (folder / "in" / "job.json").write_text(json.dumps({**job, "parent_pid": os.getpid()}))
    (folder / "out").mkdir(exist_ok=True)
    return True


def write_held(folder: Path, recipe: Recipe, tensors: Mapping[str, Tensor], labels: Sequence[str], reads: Reads,
               plugins: Sequence[str]) -> None:
    """Give the judge of a job the held-out rows' texts, for tuned upper blocks."""
    job = _job(recipe, labels, plugins) | {"encoder": reads.facts()}
    (folder / "in" / "held.json").write_text(json.dumps(job), encoding="utf-8")
    (folder / "in" / "held-texts.json").write_bytes(reads.texts(tensors["event"][held_out(tensors)].tolist()))


def start(module: str, folder: Path) -> subprocess.Popen[str]:
    """Start a job's child process; it inherits no setting and no secret."""
    return subprocess.Popen([sys.executable, "-P", "-m", module, str(folder)], stdin=subprocess.DEVNULL, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=process.environment())


def failure(stage: str, code: int, said: Sequence[str]) -> str:
    """Say why a child failed: its own error object if it left one, else its last line, else the signal."""
    lines = [line.strip() for line in said if line.strip()]
    for line in reversed(lines):
        try:
            told = json.loads(line)
            return f"{stage} failed: {told['message']}" + (f"; {told['hint']}" if told.get("hint") else "")
        except (ValueError, KeyError, TypeError):
            continue
    if code < 0:
        return f"{stage} was killed by signal {-code}"
    return f"{stage} failed with exit code {code}: {lines[-1] if lines else 'no message'}"
