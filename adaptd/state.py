"""State: everything of a domain that is learned, beside the journal."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from adaptd.config import Quarantine
from adaptd.drift import Drift
from adaptd.heads import Spans
from adaptd.metrics import Comparison, Outcomes
from adaptd.model.network import Head
from adaptd.quarantine import Finding, Suspicion
from adaptd.records import Row
from adaptd.sequential import Trial
from adaptd.tested import Tested


@dataclass
class State:
    """One head a name, and what is folded over them: outcomes, suspicion, drift."""

    version: int
    seq: int
    heads: dict[str, Head]
    prequential: Outcomes = field(default_factory=Outcomes)  # answers that were given
    progressive: Outcomes = field(default_factory=Outcomes)  # answers that would have been given: test-then-learn
    per_label: dict[str, list[int]] = field(default_factory=dict)  # label -> [right, total], of answers given
    incumbent: Comparison = field(default_factory=Comparison)  # beside the model that is in production today
    trial: Trial | None = None  # the live version's, beside the champion before it
    suspicion: Suspicion = field(default_factory=Suspicion)
    drift: Drift = field(default_factory=Drift)

    def begin_anew(self, changes: deque[dict[str, Any]], before: int) -> None:
        """Take the changes of labels that were found before a seq off the front, and begin anew with those examples."""
        while changes and changes[0]["at"] < before:
            one = changes.popleft()
            self.drift.follow(one["head"], one["label"], one["origin"], one.get("heir"))

    def follow(self, row: Row, told: Tested, rule: Quarantine) -> Finding | None:
        """Fold what a label told before it was learned; return what speaks against its source once that is enough."""
        if row.head not in self.heads:
            return None  # the domain has lost it
        if told.step is not None:
            self.heads[row.head].fold.follow(told.step)
            self.progressive.add(told.step.right)
        if told.said is not None:
            self.drift.judge(row.head, told.said, row.target, row.id, row.born)
        return None if told.dissent is None else self.suspicion.judge(row.source, row.born, told.dissent, rule)

    def tags(self, head: str) -> bool:
        """Say whether a head tags words."""
        return isinstance(self.heads[head].options.kind, Spans)
