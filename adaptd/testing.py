"""For plugin authors: checks that what a plugin gives keeps the promises adaptd relies on, and a clock to turn.

A check raises AssertionError with what is wrong in words; nothing here imports torch.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from adaptd.config import Blobs
from adaptd.errors import BadPayload
from adaptd.heads import Generate, Spans, Tagged, named
from adaptd.ingest import ENVELOPE
from adaptd.interfaces import Domain, Gate, MemoryPolicy, Trainable
from adaptd.records import Example, HeadAnswer, Paired, Prediction, canonical
from adaptd.retained import Bound, Floats, Ints, Retained, priority
from adaptd.rules import Rules
from adaptd.uploads import Uploads

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")  # what a table of the configuration may be called
STREAM = 200  # rows that a policy is checked with
JUNK: Sequence[Any] = (None, True, -1, 0.5, "", [], [1], {}, {"unknown": {"nested": None}})


class FakeClock:
    """A clock that only moves when told; give it where a function returning seconds is taken.

    >>> clock = FakeClock()
    >>> clock.advance(1.5)
    >>> clock()
    1.5
    """

    def __init__(self, start: float = 0.0) -> None:
        self.now = start

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def check_domain(domain: type[Domain], *, payloads: Sequence[Mapping[str, Any]] = (), feedback: Sequence[Any] = (),
                 rejected: Sequence[Mapping[str, Any]] = ()) -> None:
    """Check a domain against its samples, payloads and labels it takes besides, and payloads it must reject.

    Raises
    ------
    AssertionError
        With what is wrong, in words.
    """
    name = getattr(domain, "name", None)
    _expect(isinstance(name, str) and NAME.fullmatch(name) is not None,
            f"name {name!r} must be small letters, digits, - and _, beginning with a letter")
    made = domain()
    _expect(bool(made.heads), "a domain needs at least one head")
    _expect(type(made).generator is not Domain.generator or not any(isinstance(head, Generate) for head in made.heads.values()),
            "a head that generates needs the domain's generator()")
    _expect(not any(isinstance(head, Generate) and head.trainable for head in made.heads.values())
            or isinstance(made.generator(), Trainable), "a head that is trainable needs a generator with train, adopt and score")
    _expect(all(isinstance(sample, Mapping) for sample in domain.samples), "samples must be events: mappings, as they come in")
    brought = Uploads(Blobs().bytes)
    payloads = [brought.taken(one) for one in (
        *({k: v for k, v in sample.items() if k not in ENVELOPE} for sample in domain.samples), *payloads)]
    feedback = [*(sample["label"] for sample in domain.samples if sample.get("label") is not None), *feedback]
    _expect(bool(payloads), 'no payload to check with: give the domain samples = [{"text": "…", "label": "…"}], as they come')
    for payload in payloads:
        _check_example(made, payload)
    for payload in [*_spoiled(payloads), *rejected]:
        _check_refusal(partial(_example, made, brought, payload), f"example({payload!r})", must=payload in rejected)
    for label in feedback:
        _check_targets(made, label)
    for label in JUNK:
        _check_refusal(partial(_targets, made, label), f"targets({label!r})", must=False)
    Rules.of(made)
    _check_render(made, [_targets(made, label) for label in feedback] or [dict.fromkeys(made.heads, "label")])


def check_gate(gate: Gate) -> None:
    """Check that a gate is pure, gives reasons, copes with no rows, and does not promote what is plainly worse.

    Raises
    ------
    AssertionError
        With what is wrong, in words.
    """
    right, wrong = [1] * 1000, [0] * 1000
    cases = {"no rows": ([], []), "one row": ([1], [1]), "equal": (right, right), "worse": (wrong, right)}
    for case, (candidate, champion) in cases.items():
        scores = Paired(candidate=candidate, champion=champion, classes=["a"] * len(candidate))
        before = copy.deepcopy(scores)
        verdict = gate.judge(scores)
        _expect(scores == before, f"{case}: judge changed the scores")
        _expect(gate.judge(scores) == verdict, f"{case}: judge is not pure, it gave two verdicts")
        _expect(verdict.decision in ("promote", "reject", "undecided"), f"{case}: decided {verdict.decision!r}")
        _expect(bool(verdict.reasons) and all(isinstance(r, str) for r in verdict.reasons), f"{case}: no reasons")
        _expect_json(dict(verdict.evidence), f"{case}: the evidence")
        _expect(case not in ("no rows", "worse") or verdict.decision != "promote", f"{case}: was promoted")


def check_policy(policy: MemoryPolicy) -> None:
    """Check that a policy bounds a memory, always alike, keeps some rows of every class, and the newest ones.

    Raises
    ------
    AssertionError
        With what is wrong, in words.
    """
    for bound in (Bound(capacity=40, per_class=0, policy=policy), Bound(capacity=0, per_class=7, policy=policy),
                  Bound(capacity=12, per_class=5, policy=policy)):
        kept = list(_kept(bound, None))
        _expect(kept == list(_kept(bound, None)), f"{policy.name}: the same rows in the same order were kept otherwise")
        _expect(kept == list(_kept(bound, 3)), f"{policy.name}: it remembers: what is kept must follow from what was kept before")
        for row, classes in enumerate(kept):
            sizes = [len(rows) for rows in classes.values()]
            _expect(not bound.capacity or sum(sizes) <= bound.capacity, f"{policy.name}: {sum(sizes)} of {bound.capacity} kept")
            _expect(not bound.per_class or max(sizes) <= bound.per_class, f"{policy.name}: {max(sizes)} of a class kept")
            seen = {_class(r): r for r in range(row + 1)}
            _expect(set(seen) == set(classes), f"{policy.name}: the classes {set(seen) - set(classes)} are gone")
            _expect(all(seen[c] in classes[c] for c in seen), f"{policy.name}: the newest row of a class is gone")


def check_shape(cls: type, protocol: type) -> None:
    """Check that a class has a name for the configuration, and a protocol's methods, to be called as that says.

    Raises
    ------
    AssertionError
        With what is wrong, in words.
    """
    name = getattr(cls, "name", None)
    _expect(isinstance(name, str) and NAME.fullmatch(name) is not None,
            f"name {name!r} must be small letters, digits, - and _, beginning with a letter")
    for method, promised in vars(protocol).items():
        if method.startswith("_") or not inspect.isfunction(promised):
            continue
        found = inspect.getattr_static(cls, method, None)
        _expect(callable(found), f"it has no method {method}; {protocol.__name__} says: {inspect.getdoc(promised)}")
        asked = list(inspect.signature(promised).parameters)
        try:
            inspect.signature(found).bind(*asked)
        except TypeError as error:
            raise AssertionError(f"{method}({', '.join(asked)}) cannot be called: {error}") from error


class _Stream:
    """A stream of six classes, rare and frequent, of which one has gone and the others move."""

    def vectors_of(self, rows: Sequence[int]) -> Floats:
        found = np.random.default_rng(0).normal(size=(STREAM, 8))[list(rows)]
        found[:, 0] += np.array([_class(row) + row / 100 for row in rows])
        unit: Floats = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def order_of(self, rows: Sequence[int]) -> Ints:
        return np.array(rows, dtype=np.int64)

    def target_of(self, row: int) -> int:
        return _class(row)

    def mean_of(self, target: int) -> Floats:
        mean: Floats = self.vectors_of([row for row in range(STREAM) if _class(row) == target]).mean(0)
        return mean


def _class(row: int) -> int:
    return 5 if row < 30 else min(row % 11, 4)


def _rank(row: int) -> int:
    return priority(hashlib.blake2b(str(row // 2).encode(), digest_size=16).digest())  # every content twice


def _kept(bound: Bound, anew: int | None) -> Iterator[dict[int, list[int]]]:
    """Yield the retrievable rows by class after each row; with `anew` the fold begins again every so many rows."""
    stream, rows = _Stream(), set[int]()
    retained = Retained(stream)
    for row in range(STREAM):
        if anew and row % anew == 0:
            retained = Retained(stream)
            retained.fill((r, _class(r), _rank(r)) for r in sorted(rows))
        rows.add(row)
        retained.add(row, _class(row), _rank(row))
        for gone in retained.excess(bound, row, _class(row), _rank(row), row + 1):
            retained.remove(gone, _class(gone), _rank(gone))
            rows.remove(gone)
        yield {c: [r for r in sorted(rows) if _class(r) == c] for c in {_class(r) for r in rows}}


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _example(domain: Domain, brought: Uploads, payload: Mapping[str, Any]) -> Example:
    return domain.example(brought.taken(payload))


def _expect_json(value: Any, what: str) -> None:
    try:
        canonical(value)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is not JSON: {error}") from error


def _check_example(domain: Domain, payload: Mapping[str, Any]) -> None:
    before = copy.deepcopy(payload)
    example = domain.example(payload)
    _expect(isinstance(example, Example), f"example({payload!r}) gave {type(example).__name__}, not Example")
    _expect(getattr(example, domain.reads) is not None,
            f"example({payload!r}) gives an encoder nothing: {type(domain).__name__}.reads is {domain.reads!r}")
    _expect(domain.example(payload) == example, f"example({payload!r}) is not pure: two calls gave two examples")
    content = domain.content(payload)
    _expect(isinstance(content, str), f"content({payload!r}) gave {type(content).__name__}, not str")
    _expect(domain.content(payload) == content, f"content({payload!r}) is not pure")
    _expect(payload == before, f"the payload was changed: {before!r} became {payload!r}")


def _spoiled(payloads: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield payloads with a field missing or of the wrong kind."""
    yield {}
    for payload in payloads:
        for key in payload:
            yield {k: v for k, v in payload.items() if k != key}
            for junk in JUNK:
                yield {**payload, key: junk}


def _check_refusal(call: Callable[[], Any], what: str, *, must: bool) -> None:
    """Nothing but BadPayload may come out; with `must` it has to."""
    try:
        call()
    except BadPayload:
        return
    except Exception as error:  # the check is about what a stranger's code raises
        raise AssertionError(f"{what} raised {error!r}; only BadPayload may reject") from error
    _expect(not must, f"{what} was taken, it should raise BadPayload")


def _targets(domain: Domain, label: Any) -> Mapping[str, str]:
    """Return the cleaned targets of a label, as adaptd will store them."""
    targets = domain.targets(label)
    if unknown := sorted(set(targets) - set(domain.heads)):
        raise BadPayload(f"no such head: {unknown[0]}", field="label")
    return {head: domain.heads[head].check(target, f"label.{head}") for head, target in targets.items()}


def _check_targets(domain: Domain, label: Any) -> None:
    before = copy.deepcopy(label)
    try:
        targets = _targets(domain, label)
    except BadPayload as error:
        raise AssertionError(f"the label {label!r} was refused: {error}") from error
    _expect(bool(targets), f"targets({label!r}) names no head; there are {sorted(domain.heads)}")
    _expect(_targets(domain, label) == targets, f"targets({label!r}) is not pure")
    _expect(label == before, f"the label was changed: {before!r} became {label!r}")


def _answer(domain: Domain, head: str, target: str | None) -> HeadAnswer:
    if target is None:
        return HeadAnswer(label=None, confidence=0.0, scores={}, reason="no label learned")
    if isinstance(domain.heads[head], Spans):
        spans = Tagged({**one, "text": "", "words": [0, 1], "confidence": 0.5} for one in json.loads(target))
        return HeadAnswer(label=spans, confidence=0.5, scores=dict.fromkeys((one["type"] for one in spans), 0.5))
    return HeadAnswer(label=domain.heads[head].label(target), confidence=0.5, scores=dict.fromkeys(named(target), 0.5))


def _check_render(domain: Domain, labels: Sequence[Mapping[str, str]]) -> None:
    for label in [*labels, {}]:
        heads = {name: _answer(domain, name, label.get(name)) for name in domain.heads}
        rendered = domain.render(Prediction(event="e", heads=heads, cost={}))
        _expect(isinstance(rendered, Mapping), f"render gave {type(rendered).__name__}, not a mapping")
        _expect(all(isinstance(key, str) for key in rendered), "the keys of render must be strings")
        _expect_json(dict(rendered), f"render for the label {label!r}")
