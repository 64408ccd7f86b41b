"""Quarantine: which source contradicts what the others taught, more often than they are contradicted themselves.

Where: a fold over the labels in journal order, before they are learned, kept with the learner's other folds. Pure; what
a contradiction is, `adaptd.model.dissent` says. Per source a CUSUM (Page, 1954) of the log-likelihood ratio "it contradicts
at its own rate" against "at the others' rate and a tolerance". The own rate is estimated from what came before (Lorden
and Pollak, 2005), so every factor is an e-value and the CUSUM an e-detector (Shin, Ramdas and Rinaldo, 2024): while a
source contradicts no more often than the others and the tolerance, one is held wrongly at most once in `run_length` of
its labels, on average. The others' rate is theirs since the evidence began, so that a world that changes for all blames
nobody. Where the evidence began is where the source turned, as far as can be told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adaptd.config import Quarantine

HALF_LIFE = 1000.0  # tested labels of a source, of what is remembered of its rate
PRIOR, PRIOR_LABELS = 0.05, 20.0  # what the others' rate is taken for while they have few tested labels
BEFORE = 10.0  # tested labels that the others' rate from before counts, against theirs since the evidence began
EXPECTED = 4.0  # labels that the least rate worth a hold counts in a source's own
LEAST, MOST = 0.05, 0.98  # a rate worth a hold lies so far above the others', and no rate is taken for more


@dataclass(frozen=True, kw_only=True)
class Dissent:
    """How one label stands to the remembered labels of its neighbours; None: they have nothing clear to say."""

    from_others: bool | None  # does it contradict what other sources taught?
    from_all: bool | None  # and what all taught, itself among them?


def together(words: Sequence[Dissent]) -> Dissent:
    """Return how the label of a whole text stands, of those of its words that were tested: it contradicts when most do.

    >>> together([Dissent(from_others=told, from_all=None) for told in (True, None, True, False)])
    Dissent(from_others=True, from_all=None)
    """
    return Dissent(from_others=_most([one.from_others for one in words]), from_all=_most([one.from_all for one in words]))


def _most(told: Sequence[bool | None]) -> bool | None:
    clear = [one for one in told if one is not None]
    return 2 * sum(clear) > len(clear) if clear else None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A source that is to be held, and the evidence."""

    source: str
    seq: int  # of the label that was one too many
    since: int  # of the label that the evidence begins with
    labels: int  # of its labels since then that could be tested,
    against: int  # contradicted what other sources taught,
    others: float  # who contradict at this rate
    evidence: float  # the likelihood ratio's logarithm

    def words(self) -> str:
        """Return it for people."""
        return (f"{self.against} of {self.labels} labels contradict what other sources taught, "
                f"whose labels contradict in {self.others:.1%} of cases")

    def facts(self) -> dict[str, Any]:
        """Return it for the history."""
        return {"source": self.source, "since": self.since, "labels": self.labels, "against": self.against,
                "others": round(self.others, 4), "evidence": round(self.evidence, 2)}


@dataclass
class Record:
    """What is known of one source."""

    tested: float = 0.0  # its labels that could be held against all, discounted,
    against: float = 0.0  # and those of them that contradicted
    evidence: float = 0.0
    since: int = 0  # where the evidence began, and from there on: its labels that could be held against the others'
    labels: int = 0
    contrary: int = 0
    counted: int = 0  # its labels that could be held against all
    disputed: int = 0
    before: tuple[int, int] = (0, 0)  # what all sources had counted then

    def rate(self, expected: float) -> float:
        """Return its rate since then, before the next label."""
        return (self.contrary + EXPECTED * expected) / (self.labels + EXPECTED)


@dataclass
class Suspicion:
    """The fold: a record of every source."""

    records: dict[str, Record] = field(default_factory=dict)
    counted: int = 0  # all labels that could be held against all, and those that contradicted
    disputed: int = 0
    _recent: tuple[float, float] = (0.0, 0.0)  # the records' discounted sums

    def judge(self, source: str, seq: int, dissent: Dissent, rule: Quarantine) -> Finding | None:
        """Take one label of a source into account; return what speaks against it once that is enough."""
        record = self.records.setdefault(source, Record())
        found = None
        if dissent.from_others is not None:
            found = self._weigh(source, record, seq, dissent.from_others, rule)
        if dissent.from_all is not None:
            self._count(record, dissent.from_all)
        return found

    def others(self, record: Record) -> float:
        """Return the rate at which the other sources contradict: since the record's evidence began, before it as a prior."""
        recent = [total - mine for total, mine in zip(self._recent, (record.tested, record.against), strict=True)]
        earlier = (max(recent[1], 0.0) + PRIOR * PRIOR_LABELS) / (max(recent[0], 0.0) + PRIOR_LABELS)
        counted = self.counted - record.before[0] - record.counted
        disputed = self.disputed - record.before[1] - record.disputed
        return (disputed + BEFORE * earlier) / (counted + BEFORE)

    def _weigh(self, source: str, record: Record, seq: int, contrary: bool, rule: Quarantine) -> Finding | None:
        """Bet on one label, at the rates that were known before it."""
        if record.evidence <= 0.0:
            self._begin(record)
            record.since = seq
        others = self.others(record)
        allowed = min(others + rule.tolerance, MOST - LEAST)
        expected = min(max(record.rate(allowed + LEAST), allowed + LEAST), MOST)
        record.evidence += math.log(expected / allowed if contrary else (1 - expected) / (1 - allowed))
        record.labels, record.contrary = record.labels + 1, record.contrary + contrary
        if record.evidence < math.log(rule.run_length):
            return None
        found = Finding(source=source, seq=seq, since=record.since, labels=record.labels, against=record.contrary, others=others,
                        evidence=record.evidence)
        self._begin(record)
        return found

    def _begin(self, record: Record) -> None:
        record.evidence, record.labels, record.contrary, record.counted, record.disputed = 0.0, 0, 0, 0, 0
        record.before = (self.counted, self.disputed)

    def _count(self, record: Record, disputed: bool) -> None:
        """Count one label towards the rate that other sources are held against."""
        kept = 0.5 ** (1 / HALF_LIFE)
        tested, against = record.tested * kept + 1, record.against * kept + disputed
        self._recent = (self._recent[0] + tested - record.tested, self._recent[1] + against - record.against)
        record.tested, record.against = tested, against
        record.counted, record.disputed = record.counted + 1, record.disputed + disputed
        self.counted, self.disputed = self.counted + 1, self.disputed + disputed

    # -- with the other folds, in versions and checkpoints ------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return the fold as JSON."""
        return {"counted": self.counted, "disputed": self.disputed, "recent": list(self._recent),
                "records": {source: dict(vars(record)) for source, record in self.records.items()}}

    @classmethod
    def of(cls, facts: Mapping[str, Any] | None) -> Suspicion:
        """Return a stored fold; a store from before there was one begins anew."""
        if not facts:
            return cls()
        records = {source: Record(**{**known, "before": tuple(known["before"])}) for source, known in facts["records"].items()}
        return cls(records, facts["counted"], facts["disputed"], tuple(facts["recent"]))
