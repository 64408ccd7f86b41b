"""Scores: how good each head's answers were at the time, by the measures of its kind.

Where: beside status. Read off the tables when asked for, so that no rollback, forget or restart can leave them behind: the
newest labels that hold now, against what their events were answered with before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import product
from typing import Any

from sqlalchemy import Connection

from adaptd import tables as t
from adaptd.heads import Classify, Head, Labels, Ordinal, Regress, Spans, named
from adaptd.rows import Interval, alive, answered_before
from adaptd.words import Span, spans

Json = dict[str, Any]
Pairs = Sequence[tuple[str, str]]  # what was answered, and the label
NEWEST = 1000  # labels
WORDS = 20_000  # of texts whose words are tagged


def of(connection: Connection, domain: int, intervals: Sequence[Interval], heads: Mapping[str, Head]) -> dict[str, Json]:
    """Return the figures of each head; nothing of a domain whose only head classifies, of which status has them anyway."""
    if len(heads) == 1 and isinstance(next(iter(heads.values())), Classify):
        return {}
    return {name: _head(connection, domain, intervals, name, head) for name, head in heads.items()}


def _head(connection: Connection, domain: int, intervals: Sequence[Interval], name: str, head: Head) -> Json:
    learned = t.learned.c
    query = alive(domain, intervals).where(learned.head == name).order_by(None).order_by(learned.born.desc(), learned.id.desc())
    if isinstance(head, Spans):
        return _spans(connection, name, connection.execute(query.limit(WORDS)).all())
    rows = connection.execute(query.limit(NEWEST)).all()
    said = answered_before(connection, {row.event: row.born for row in rows})
    asked = [(said[row.event].labels[name], row.target) for row in rows
             if row.event in said and name in said[row.event].labels]
    pairs = [(answer, truth) for answer, truth in asked if isinstance(answer, str)]
    figures: Json = {"kind": head.kind, "judged": len(asked), "withheld": len(asked) - len(pairs),
                     "accuracy": sum(answer == truth for answer, truth in asked) / len(asked) if asked else None}
    return figures | (measures(head, pairs) if pairs else {})


def _spans(connection: Connection, name: str, rows: Sequence[Any]) -> Json:
    """Return precision, recall and F1 over whole spans, of all types and of each (as `conlleval` does; Tjong Kim Sang, 2002)."""
    events: dict[int, dict[int, str]] = {}
    for row in rows:
        events.setdefault(row.event, {})[row.part] = row.target
    if len(rows) == WORDS:
        events.popitem()  # words of it lie behind those
    said = answered_before(connection, {row.event: row.born for row in rows if row.event in events})
    asked = [(said[event].labels[name], tags) for event, tags in events.items()
             if event in said and name in said[event].labels]
    pairs = [(spans(answer), spans(truth)) for answer, truth in asked if isinstance(answer, Mapping)]
    figures: Json = {"kind": Spans.kind, "judged": len(asked), "withheld": len(asked) - len(pairs),
                     "accuracy": sum(answer == truth for answer, truth in pairs) / len(asked) if asked else None}
    return figures | (entities(pairs) if pairs else {})


def entities(pairs: Sequence[tuple[AbstractSet[Span], AbstractSet[Span]]]) -> Json:
    """Return precision, recall and F1 of answered spans against taught ones, text by text: of all, and by type; seqeval's.

    >>> entities([({(0, 1, "city")}, {(0, 1, "city"), (2, 3, "river")})])["f1"]
    0.6666666666666666
    """
    hits, answered, taught = Counter[str](), Counter[str](), Counter[str]()
    for answer, truth in pairs:
        hits.update(kind for _, _, kind in answer & truth)
        answered.update(kind for _, _, kind in answer)
        taught.update(kind for _, _, kind in truth)
    types = {kind: _found(hits[kind], answered[kind], taught[kind]) for kind in sorted(answered.keys() | taught.keys())}
    return {**_found(hits.total(), answered.total(), taught.total()), "types": types}


def _found(hits: int, answered: int, taught: int) -> dict[str, float]:
    return {"precision": hits / answered if answered else 1.0, "recall": hits / taught if taught else 1.0,
            "f1": 2 * hits / (answered + taught) if answered + taught else 1.0, "taught": taught}


def measures(head: Head, pairs: Pairs) -> dict[str, float]:
    """Return what is usual for a kind of head, over answers and labels."""
    if isinstance(head, Labels):
        return f1([(set(named(answer)), set(named(truth))) for answer, truth in pairs])
    if isinstance(head, Ordinal | Regress):
        values = [(head.value(answer), head.value(truth)) for answer, truth in pairs]
        return {"mae": sum(abs(one - other) for one, other in values) / len(values), "kappa": kappa(values)}
    return {}


def f1(pairs: Sequence[tuple[set[str], set[str]]]) -> dict[str, float]:
    """Return F1 over all decisions (micro), and its mean over the labels that came (macro).

    >>> f1([({"a"}, {"a", "b"}), ({"b"}, {"b"})])
    {'micro_f1': 0.8, 'macro_f1': 0.8333333333333333}
    """
    hits, false, missed = Counter[str](), Counter[str](), Counter[str]()
    for answer, truth in pairs:
        hits.update(answer & truth)
        false.update(answer - truth)
        missed.update(truth - answer)
    each = [_f1(hits[name], false[name], missed[name]) for name in hits.keys() | missed.keys()]
    return {"micro_f1": _f1(hits.total(), false.total(), missed.total()), "macro_f1": sum(each) / len(each) if each else 1.0}


def _f1(hits: int, false: int, missed: int) -> float:
    return 2 * hits / (2 * hits + false + missed) if hits + false + missed else 1.0


def kappa(values: Sequence[tuple[float, float]]) -> float:
    """Return the quadratically weighted kappa of answers and labels (Cohen, 1968): 1 where they agree, 0 as by chance.

    >>> kappa([(1, 1), (3, 3)]), kappa([(1, 1), (1, 3)])
    (1.0, 0.0)
    """
    seen = sum((one - other) ** 2 for one, other in values)
    ones, others = Counter(one for one, _ in values), Counter(other for _, other in values)
    chance = sum((a - b) ** 2 * ones[a] * others[b] for a, b in product(ones, others)) / len(values)
    return 1.0 - seen / chance if chance else 1.0
