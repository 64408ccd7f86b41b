"""Fold: what a head learns from outcomes in the order of the journal. Each answer was given before its label was learned.

Trust in the experts by fixed share (Herbster and Warmuth, 1998), the share of the rule for young classes, one temperature
(Guo et al., 2017), and the newest outcomes, from which limits of abstention are read. Deterministic; stored with every head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adaptd.model.abstain import Recent
from adaptd.model.attention import UNTRAINED, Adapter, Floats
from adaptd.model.decoder import BURST, FLOOR, Opinions, tempered
from adaptd.tested import Step

if TYPE_CHECKING:
    from adaptd.model.snapshot import HeadSnapshot

TRUST_RATE, TRUST_SHARE = 1.0, 0.05
TRUST_HALF_LIFE = 1000.0  # learned rows
TRUST_FROM = 20  # outcomes count once the true class has so many rows; before that the young rule answers
RULE_PRIOR, RULE_SHARE = 0.9, 0.01


def resized(trust: Tensor, prior: Tensor) -> Tensor:
    """Return trust [E, C] of as many experts as a prior [E']: one that comes has its prior's share, one that goes leaves its own.

    >>> resized(torch.tensor([[0.5], [0.5]]), torch.tensor([0.25, 0.25, 0.5])).T.tolist()
    [[0.25, 0.25, 0.5]]
    """
    if len(trust) < len(prior):
        comes = prior[len(trust):, None]
        return torch.cat([trust * (1 - comes.sum()), comes.expand(-1, trust.shape[1])])
    if len(trust) > len(prior):
        stay = trust[: len(prior)]
        return stay / stay.sum(0).clamp(min=1e-9)
    return trust


class Fold:
    """What is learned from outcomes in journal order: trust, young rule's share, temperature, limits. Deterministic."""

    def __init__(self) -> None:
        self.prior = torch.tensor(UNTRAINED)
        self.trust = torch.zeros(len(self.prior), 0)  # as of each class's last outcome
        self.at = torch.zeros(0)  # learned rows at that outcome
        self.rule = RULE_PRIOR  # share of the rule for young classes against the plain pool
        self.temperature = 0.0  # logarithm of the inverse temperature
        self.curvature = 1.0  # AdaGrad's running mean of squared gradients
        self.recent = Recent()

    def grow(self, classes: int) -> None:
        """Give new classes the prior."""
        if classes > self.trust.shape[1]:
            extra = classes - self.trust.shape[1]
            self.trust = torch.cat([self.trust, self.prior[:, None].repeat(1, extra)], 1)
            self.at = torch.cat([self.at, torch.zeros(extra)])

    def expect(self, adapter: Adapter) -> None:
        """Change the prior; what was learned in relation to the old one stays (posterior = prior times evidence)."""
        self.recent.measure_by(adapter.digest)
        new = torch.tensor(adapter.prior)
        if torch.equal(new, self.prior):
            return  # not a bit changes: a rollback gives back what answered
        self.trust = resized(self.trust, new) * (new / resized(self.prior[:, None], new)[:, 0])[:, None]
        self.trust = self.trust / self.trust.sum(0).clamp(min=1e-9)
        self.prior = new

    def trusted(self, learned: int) -> Tensor:
        """Return the trust [E, C] after so many learned rows: of a class that is silent it goes back to the prior.

        What was true while there were few classes need not be when there are many.
        """
        left = 0.5 ** ((learned - self.at) / TRUST_HALF_LIFE)
        return self.prior[:, None] + (self.trust - self.prior[:, None]) * left

    def step(self, said: Opinions, row: int, target: int | None, head: HeadSnapshot) -> Step:
        """Return what one outcome makes of this: the answer came before the label; None: its class was new."""
        pooled = said.pooled[row]
        best = int(pooled.argmax())
        answered, confidence = head.reading.answered(tempered(pooled, head))
        temperature, curvature = self._next_temperature(pooled, best == target)
        rule, trust = self.rule, dict[int, list[float]]()
        if target is not None:
            if said.ruled is not said.plain:
                rule = self._next_rule(float(said.ruled[row, target]), float(said.plain[row, target]))
            if int(head.counts[target]) >= TRUST_FROM:
                evidence = min(1.0, 1.0 / max(float(head.rates[target]), 1e-3)) ** BURST
                trust = self._next_trust(said.experts[:, row, target], said.gates[:, row], {target, best}, evidence, head.learned)
        return Step(right=answered == target, known=target is not None, confidence=confidence,
                    fit=float(said.fit[row]), temperature=temperature, curvature=curvature, rule=rule, learned=head.learned,
                    trust=trust)

    def follow(self, step: Step) -> None:
        """Take a step: this one's own, or one that is kept of it."""
        self.recent.add(step.confidence, step.right, step.known, step.fit)
        self.temperature, self.curvature, self.rule = step.temperature, step.curvature, step.rule
        self.grow(max(step.trust, default=-1) + 1)
        for c, weights in step.trust.items():
            self.trust[:, c], self.at[c] = resized(torch.tensor(weights)[:, None], self.prior)[:, 0], step.learned

    def update(self, said: Opinions, row: int, target: int | None, head: HeadSnapshot) -> Step:
        """Take the step of one outcome, and return it."""
        step = self.step(said, row, target, head)
        self.follow(step)
        return step

    def _next_trust(self, p: Floats, open_: Floats, at_stake: set[int], evidence: float, learned: int) -> dict[int, list[float]]:
        """Fixed share; an expert that was silent is charged the others' mean."""
        loss = np.log(p + FLOOR) / math.log(FLOOR)
        mean = (loss * open_).sum() / max(open_.sum(), 1e-9)
        factor = np.exp(-TRUST_RATE * evidence * (open_ * loss + (1 - open_) * mean))
        now, prior = self.trusted(learned).numpy(), self.prior.numpy()
        weights = {c: now[:, c] * factor for c in at_stake}
        share = TRUST_SHARE * evidence
        return {c: ((1 - share) * w / w.sum() + share * prior).astype(np.float32).tolist() for c, w in weights.items()}

    def _next_rule(self, ruled: float, plain: float) -> float:
        """Bayes mixture of rule and plain pool, with fixed share towards the prior."""
        a, b = self.rule * (math.exp(ruled) + FLOOR), (1 - self.rule) * (math.exp(plain) + FLOOR)
        return (1 - RULE_SHARE) * a / (a + b) + RULE_SHARE * RULE_PRIOR

    def _next_temperature(self, z: Floats, right: bool) -> tuple[float, float]:
        """Step down the log loss of what confidence says: that the answer is right. A class that was new makes it wrong.

        With confidence c and the others' mean distance d from the best, ``d loss / d log t = t (c - right) d``.
        """
        t, best = math.exp(self.temperature), z.max()
        p = np.exp(t * (z - best))
        others = max(float(p.sum()) - 1.0, 1e-9)
        distance = float((p * (best - z)).sum()) / others
        gradient = min(max(t * (1.0 / (1.0 + others) - right) * distance, -3.0), 3.0)
        curvature = 0.999 * self.curvature + gradient * gradient
        return min(max(self.temperature - 0.1 * gradient / math.sqrt(curvature), -2.0), 2.0), curvature

    def facts(self) -> dict[str, Any]:
        """Return the scalars, for a file's facts."""
        return {"prior": self.prior.tolist(), "rule": self.rule, "temperature": self.temperature, "curvature": self.curvature,
                "measure": self.recent.measure}

    def load(self, trust: Tensor, at: Tensor, facts: dict[str, Any], recent: Tensor | None = None) -> None:
        """Take over a stored fold; one from before outcomes were kept has no `recent`."""
        self.trust, self.at, self.prior = trust.clone(), at.clone(), torch.tensor(facts["prior"])
        self.rule, self.temperature = float(facts["rule"]), float(facts["temperature"])
        self.curvature = float(facts["curvature"])
        self.recent = Recent(() if recent is None else recent.tolist(), facts.get("measure", ""))
