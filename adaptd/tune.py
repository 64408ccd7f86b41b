"""Tune: search the settings of adaptation and retrieval on the store's own labels, by successive halving.

Reads a store, running or stopped, and changes nothing. A try is an adaptation with other settings, from an untrained attention,
over the rows of now: the newest are its experience, the others its memory, and the held-out ones judge it, left out exactly, as
the gate's are. All tries see a quarter of the rows, the better half of them half, and the best of those all (Jamieson and
Talwalkar, 2016); the settings in force go along, and so does no adaptation at all. The best one is held against those in force by
McNemar's exact test on all held-out rows, at a level divided by the number of tries (Bonferroni; Dunn, 1961): whichever came out
best, the chance to call one better that is not is what is stated. A class that is worse refuses it, as at the gate.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptd import evaluate, moments, offline, plugins, trainer, training
from adaptd.asof import AsOf
from adaptd.config import DomainSettings
from adaptd.errors import AdaptdError, Conflict, NotFound, TrainingFailed
from adaptd.gate import Discordance, NotWorse, lower_bound, mcnemar, upper_bound
from adaptd.interfaces import Strategy
from adaptd.model.attention import Adapter
from adaptd.model.threads import one_thread
from adaptd.paths import Paths
from adaptd.records import Paired

SHARES = (0.25, 0.5, 1.0)  # of the rows, in the rungs of the ladder
SURE = 0.05
FEWEST_HELD_OUT = 100
FOREVER = 1 << 62
Json = dict[str, Any]
SPACE: Mapping[str, Sequence[Any]] = {  # the settings that matter, and what is tried of each
    "memory.neighbours": (16, 32, 64, 128),
    "adapt.strategy": ("replay", "derpp", "er_ace"),
    "adapt.options.learning_rate": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "adapt.options.steps": (32, 64, 128),
}
OPTION = "adapt.options."
NEVER: Mapping[str, Any] = {"adapt.enabled": False}


@dataclass
class Try:
    """Settings that are tried, what is otherwise in them, and how they did."""

    otherwise: Mapping[str, Any]  # by dotted key; none: the settings in force
    right: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))  # of the last rung's held-out rows
    shares: list[float] = field(default_factory=list)  # of right answers, by rung
    cpu_s: float = 0.0
    failed: str | None = None

    @property
    def accuracy(self) -> float:
        """How it did in its last rung; of one that failed less than nothing."""
        return -1.0 if self.failed is not None or not self.shares else self.shares[-1]

    def facts(self) -> Json:
        """Return its row of the table."""
        return {"settings": dict(self.otherwise), "accuracy": self.shares, "rungs": len(self.shares),
                "cpu_s": round(self.cpu_s, 2), "failed": self.failed}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a rung's tries learn from and are judged by."""

    tensors: dict[str, Tensor]
    facts: Json
    held: Tensor
    ridge: Tensor

    def right(self, adapter: Adapter, neighbours: int) -> Tensor:
        """Say which held-out rows are answered right."""
        said = evaluate.answers(self.tensors, {**self.facts, "neighbours": neighbours}, adapter, self.held, self.ridge)
        return said == self.tensors["targets"][self.held]


def tune(paths: Paths, domain: str, now: DomainSettings, allow: Sequence[str], *, tries: int, head: str | None, seed: int,
         advance: Callable[[int, int], None]) -> Json:
    """Search and judge; `advance` is told (adaptations done, of how many).

    Raises
    ------
    NotFound
        There is no such head, or nothing was learned.
    Conflict
        There are too few labels or held-out rows to tell settings apart.
    """
    tensors, facts, name = _rows(paths, domain, now, allow, head)
    known = plugins.collect(plugins.load("adaptd.learner", allow), "register_strategies")
    chosen = candidates(now, known, tries, seed)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Avalanche's own
        configured, ladder, all_rows = _climb(chosen, tensors, facts, now, known, seed, advance)
    best = max(ladder, key=lambda one: (len(one.shares), one.accuracy))
    table = sorted(chosen, key=lambda one: (-len(one.shares), -one.accuracy))
    return {"domain": domain, "head": name, "rows": len(tensors["targets"]), "held_out": len(all_rows.held), "tries": len(chosen),
            "seed": seed, "configured": configured.facts(), "table": [one.facts() for one in table],
            "best": {**best.facts(), **judged(best, configured, all_rows, len(chosen)),
                     "toml": toml(domain, best.otherwise, now)}}


def candidates(now: DomainSettings, known: Mapping[str, type], tries: int, seed: int) -> list[Try]:
    """Draw what is tried: no adaptation at all, then different settings, none of them those in force."""
    space = {**SPACE, "adapt.strategy": dict.fromkeys([now.adapt.strategy, *SPACE["adapt.strategy"]])}
    every = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    every = [one for one in every if _takes(known[one["adapt.strategy"]], one)]
    random.Random(seed).shuffle(every)
    found = [otherwise for one in every if (otherwise := _otherwise(one, now, known[one["adapt.strategy"]]))]
    return [Try(NEVER), *(Try(one) for one in found[:tries - 1])]


def _takes(strategy: type, one: Mapping[str, Any]) -> bool:
    options = {item.name for item in fields(strategy)}
    return all(key.removeprefix(OPTION) in options for key in one if key.startswith(OPTION))


def _otherwise(one: Mapping[str, Any], now: DomainSettings, strategy: type) -> dict[str, Any]:
    """Return what of it is not in force; what is not set of a strategy's options is its default."""
    defaults = {item.name: item.default for item in fields(strategy)}
    force = {"memory.neighbours": now.memory.neighbours, "adapt.strategy": now.adapt.strategy,
             **{OPTION + name: value for name, value in (defaults | _options(now, one["adapt.strategy"])).items()}}
    return {key: value for key, value in one.items() if force[key] != value}


def _options(now: DomainSettings, strategy: str, otherwise: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return the options of a strategy: those in force if it is the one in force, and what is otherwise."""
    force = now.adapt.options if strategy == now.adapt.strategy else {}
    return {**force, **{key.removeprefix(OPTION): value for key, value in otherwise.items() if key.startswith(OPTION)}}


def toml(domain: str, otherwise: Mapping[str, Any], now: DomainSettings) -> str:
    """Return the lines for adaptd.toml, in the domain's own tables.

    >>> print(toml("desk", {"memory.neighbours": 16, "adapt.options.steps": 32}, DomainSettings()))
    [domains.desk.memory]
    neighbours = 16
    [domains.desk.adapt]
    options = { steps = 32 }
    """
    lines: dict[str, list[str]] = {}
    for key, value in otherwise.items():
        table, _, name = key.partition(".")
        if not key.startswith(OPTION):
            lines.setdefault(table, []).append(f"{name} = {json.dumps(value)}")
    if any(key.startswith(OPTION) or key == "adapt.strategy" for key in otherwise):
        options = _options(now, otherwise.get("adapt.strategy", now.adapt.strategy), otherwise)
        inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
        lines.setdefault("adapt", []).append(f"options = {{ {inline} }}" if inline else "options = {}")
    return "\n".join(line for table, some in lines.items() for line in (f"[domains.{domain}.{table}]", *some))


# -- what is learned from -------------------------------------------------------------------------------------


def _rows(paths: Paths, domain: str, now: DomainSettings, allow: Sequence[str],
          wanted: str | None) -> tuple[dict[str, Tensor], Json, str]:
    """Read a head's rows as of now; the newest, as many as an adaptation has, are the experience."""
    with offline.reading(paths, domain) as (connection, number):
        heads = AsOf.at(connection, paths, number, moments.find(connection, number, time.time()), allow).state(now).heads
        if not heads or (wanted is not None and wanted not in heads):
            raise NotFound(f"the domain has no head {wanted!r} that has learned" if wanted else "nothing was learned yet",
                           field="head", hint=f"there are: {', '.join(heads) or 'none'}")
        name = wanted or max(heads, key=lambda one: heads[one].learned)
        tensors, away = training.rows(heads[name], -1)
        away.read_into(tensors["vectors"])
        folds, facts = training.judging(heads[name])
    learned = int((tensors["holdout"] == 0).sum())
    held = len(tensors["targets"]) - learned
    if learned < now.adapt.min_labels or held < FEWEST_HELD_OUT or len(set(tensors["targets"].tolist())) < 2:
        raise Conflict(f"{learned} labels are learned and {held} held out; {now.adapt.min_labels} and {FEWEST_HELD_OUT} of two "
                       "classes are needed to tell settings apart", hint="tune when more labels have come")
    experience = min(now.adapt.every_labels or learned, learned // 2)
    tensors["fresh"] = (torch.arange(len(tensors["targets"])) >= len(tensors["targets"]) - experience).to(torch.uint8)
    return tensors | folds, facts, name


def _share(tensors: Mapping[str, Tensor], facts: Json, share: float, seed: int) -> Rows:
    """Take a share of the rows, held-out ones and others alike, in their order; the same for every try."""
    n = len(tensors["targets"])
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:max(2, round(share * n))].sort().values
    some = {name: one[drawn] if one.shape[:1] == (n,) and not name.startswith("trust") else one for name, one in tensors.items()}
    held = evaluate.held_out(some)
    return Rows(tensors=some, facts=facts, held=held, ridge=evaluate.ridge_scores(some, facts, held))


# -- the search -----------------------------------------------------------------------------------------------


def _climb(tries: Sequence[Try], tensors: Mapping[str, Tensor], facts: Json, now: DomainSettings, known: Mapping[str, type],
           seed: int, advance: Callable[[int, int], None]) -> tuple[Try, list[Try], Rows]:
    """Give every try a quarter of the rows, the better ones more; return those in force, who came to the top, and its rows."""
    configured, ladder = Try({}), list(tries)
    places = [1 + max(1, len(tries) >> rung) for rung in range(len(SHARES))]
    done, whole = 0, sum(places)
    advance(done, whole)
    for share, room in zip(SHARES, places, strict=True):
        rows = _share(tensors, facts, share, seed)
        ladder = sorted(ladder, key=lambda one: -one.accuracy)[:room - 1]
        for one in (configured, *ladder):
            _measure(one, rows, now, known)
            done += 1
            advance(done, whole)
    return configured, ladder, rows


def _measure(one: Try, rows: Rows, now: DomainSettings, known: Mapping[str, type]) -> None:
    """Adapt by a try's settings and say what comes of it; one that fails is out."""
    if one.failed is not None:
        return
    began = time.process_time()
    try:
        adapter = Adapter() if "adapt.enabled" in one.otherwise else _adapted(one, rows, now, known)
        one.right = rows.right(adapter, one.otherwise.get("memory.neighbours", now.memory.neighbours))
        one.shares.append(float(one.right.float().mean()))
    except (AdaptdError, RuntimeError, ValueError) as error:  # a strategy may be a stranger's
        one.failed = str(error)
    one.cpu_s += time.process_time() - began


def _adapted(one: Try, rows: Rows, now: DomainSettings, known: Mapping[str, type]) -> Adapter:
    name = one.otherwise.get("adapt.strategy", now.adapt.strategy)
    options = _options(now, name, one.otherwise)
    strategy: Strategy = plugins.build(plugins.pick(dict(known), name, "adapt.strategy"), options, "adapt.options")
    given = training.given(rows.tensors, FOREVER)
    if not bool(given["fresh"].any()):
        raise TrainingFailed("there are no new rows to learn from")
    learned = trainer.Rows(vectors=given["vectors"], targets=given["targets"], fresh=given["fresh"].bool())
    job = trainer.Job(strategy=name, labels=rows.facts["labels"], parent_pid=os.getpid(), seed=now.adapt.seed)
    return trainer.train(strategy, learned, Adapter(), job, "cpu", lambda _share, _words: None)[0]


# -- the verdict ----------------------------------------------------------------------------------------------


def judged(best: Try, configured: Try, rows: Rows, tries: int) -> Json:
    """Hold the best try against the settings in force, with a level divided by the tries.

    Returns ``better``, the difference in accuracy with its interval at that level, McNemar's p times the tries, and why.
    """
    if best.failed is not None or configured.failed is not None:
        return {"better": False, "why": f"an adaptation failed: {best.failed or configured.failed}"}
    won = int((best.right & ~configured.right).sum())
    lost = int((configured.right & ~best.right).sum())
    counts, sure = Discordance(len(best.right), won, lost), 1 - SURE / tries
    p = min(1.0, mcnemar(lost, won) * tries)  # of "the best is no better than those in force"
    labels = [rows.facts["labels"][target] for target in rows.tensors["targets"][rows.held].tolist()]
    paired = Paired(candidate=best.right.int().tolist(), champion=configured.right.int().tolist(), classes=labels, earlier=[])
    worse = NotWorse().judge(paired).evidence.get("classes", {}).get("worse", [])
    why = f"worse in {', '.join(map(repr, worse))}" if worse else "no difference that chance and the tries do not explain" \
        if p > SURE else "better than chance and the tries explain"
    return {"better": p <= SURE and not worse, "delta": counts.delta, "lower": lower_bound(counts, sure),
            "upper": upper_bound(counts, sure), "won": won, "lost": lost, "p": p, "worse_classes": list(worse), "why": why}
