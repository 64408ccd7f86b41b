"""Drift: which labels are contradicted where they used to be right, and since when.

Where: a fold over the outcomes in journal order, kept with the learner's other folds. Pure; whether the contradictions
are a change of the label or a new class beside it, `adaptd.model.change` says. Per head and label a CUSUM (Page, 1954) over
the answers that named the label: the log-likelihood ratio of "half of them are wrong now" against "as many as ever, and a
tolerance". Only what was answered counts, so a class that comes no more accuses nobody, and a new one only those whose
answers it contradicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHANGED = 0.5  # share of wrong answers that a change is told by
PRIOR, PRIOR_ANSWERS = 0.05, 20.0  # what the long-run share is taken for before there are answers
TOLERANCE, MOST = 0.05, 0.3  # above the long-run share; a label that is wrong more often is not watched
FROM = 20.0  # answers that a label is watched from
HALF_LIFE = 1000.0  # answers, of what is remembered of a label's long-run share
LIMIT = math.log(1000.0)  # of the evidence, at which the contradictions are looked at
KEPT = 64  # answers since the evidence began that it may take; then it was no change

Kind = tuple[str, str]  # what examples are called now, and what they were called first


@dataclass(frozen=True, kw_only=True)
class Change:
    """A label that means something else, and what its remembered rows are to be."""

    head: str
    label: str
    origin: str  # what the examples were called first
    seq: int  # of the newest label that was learned
    since: int  # of the label that the evidence begins with
    labels: Mapping[str, int]  # what the answers were contradicted with, how often
    confirmed: int  # answers since then that were right
    evidence: float  # by how much there is more than enough that the examples are like the old ones (log likelihood ratio)
    whole: bool  # all of them follow one label
    moves: Mapping[int, str | None]  # row -> its label from now on; None: it ends

    def words(self) -> str:
        """Return it for people."""
        contradicted = _counted(self.labels)
        became = Counter(label for label in self.moves.values() if label is not None)
        return f"{self.label!r} was contradicted with {contradicted}; of what is remembered of it, now {_counted(became)}"

    @property
    def heir(self) -> str | None:
        """The label that all of them took; None: they took several."""
        became = {label for label in self.moves.values() if label is not None}
        return became.pop() if self.whole and len(became) == 1 else None

    def facts(self) -> dict[str, Any]:
        """Return it for the history."""
        became = Counter(label for label in self.moves.values() if label is not None)
        return {"head": self.head, "label": self.label, "origin": self.origin, "since": self.since, "at": self.seq,
                "contradicted": dict(self.labels), "confirmed": self.confirmed, "evidence": round(self.evidence, 2),
                "became": dict(became), "heir": self.heir, "ended": sum(label is None for label in self.moves.values())}


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label!r} ({count})" for label, count in labels.items())


@dataclass
class Record:
    """What is known of the answers that named one label."""

    tested: float = 0.0  # answers, discounted, and those of them that were wrong: those of the evidence not among them
    wrong: float = 0.0
    evidence: float = 0.0
    since: int = 0  # where the evidence began, and the answers since then: (row, its label)
    seen: list[tuple[int, str]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The long-run share of wrong answers."""
        return (self.wrong + PRIOR * PRIOR_ANSWERS) / (self.tested + PRIOR_ANSWERS)

    def settle(self, label: str) -> None:
        """Count the answers of the evidence towards the long run: they were no change."""
        kept = 0.5 ** (1 / HALF_LIFE)
        for _, truth in self.seen:
            self.tested, self.wrong = self.tested * kept + 1, self.wrong * kept + (truth != label)
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.evidence, self.since, self.seen = 0.0, 0, []


@dataclass
class Drift:
    """The fold: a record of every kind of examples of every head."""

    records: dict[str, dict[Kind, Record]] = field(default_factory=dict)
    _touched: dict[str, set[Kind]] = field(default_factory=dict)  # what the last block told of

    def judge(self, head: str, said: Kind, truth: str, row: int, born: int) -> None:
        """Take one outcome into account: an answer with the kind of examples behind it, and the label that came."""
        self._touched.setdefault(head, set()).add(said)
        record, label = self.records.setdefault(head, {}).setdefault(said, Record()), said[0]
        watched = record.tested >= FROM and record.rate <= MOST
        if record.evidence <= 0.0:
            record.since = born
        record.seen.append((row, truth))
        if watched:
            allowed = record.rate + TOLERANCE
            record.evidence += math.log(CHANGED / allowed if truth != label else (1 - CHANGED) / (1 - allowed))
            record.evidence = min(record.evidence, 2 * LIMIT)
        if not watched or record.evidence <= 0.0 or len(record.seen) > KEPT:
            record.settle(label)

    def suspects(self, head: str) -> Iterator[Kind]:
        """Yield the kinds whose contradictions are enough to be looked at; each outcome is looked at once."""
        for kind in sorted(self._touched.pop(head, ())):
            if self.records[head][kind].evidence >= LIMIT:
                yield kind

    def disputing(self, head: str) -> set[int]:
        """Return the rows that contradict an answer in the evidence of any kind: they are no old examples of their label."""
        return {row for (label, _), record in self.records.get(head, {}).items() for row, truth in record.seen if truth != label}

    def follow(self, head: str, label: str, origin: str, heir: str | None) -> None:
        """Begin anew with examples whose label changed; where all took one label, its heir, the record goes with them."""
        record = self.records.get(head, {}).get((label, origin))
        if record is None:  # of a fold that knows nothing of them
            return
        record.clear()
        if heir is not None:
            self.records[head][heir, origin] = Record(record.tested, record.wrong)

    # -- with the other folds, in versions and checkpoints ------------------------------------------------------

    def facts(self) -> list[dict[str, Any]]:
        """Return the fold as JSON."""
        return [{"head": head, "label": label, "origin": origin, **vars(record), "seen": list(record.seen)}
                for head, records in self.records.items() for (label, origin), record in records.items()]

    @classmethod
    def of(cls, facts: Sequence[Mapping[str, Any]] | None) -> Drift:
        """Return a stored fold; a store from before there was one begins anew."""
        fold = cls()
        for one in facts or ():
            seen = [(row, truth) for row, truth in one["seen"]]
            record = Record(one["tested"], one["wrong"], one["evidence"], one["since"], seen)
            fold.records.setdefault(one["head"], {})[one["label"], one["origin"]] = record
        return fold
