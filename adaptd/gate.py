"""The gate: does a candidate go live? Pure: paired held-out answers in, a verdict with reasons out.

The pooled test is a one-sided paired non-inferiority test: Tango's score interval for the difference of two
paired proportions (Tango, 1998, Statistics in Medicine 17:891-908), with a continuity correction of half a row, so
that the exact chance to promote a candidate that is a whole margin worse stays below 1 - confidence even where few
answers differ. Tries against one champion add up, on the same held-out rows or others, so the k-th one may err with
(1 - confidence) / k² only: together at most pi²/6 times as often as one (alpha spending; Lan and DeMets, 1983).
Classes are guarded by exact one-sided McNemar tests under Holm's correction (Holm, 1979). `docs/gate.md` has the
guarantee in words, and how often the gate errs where the truth is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, comb, log10, sqrt
from statistics import NormalDist
from typing import Any, ClassVar

from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Gate
from adaptd.records import Paired, Verdict

POWER = 0.8  # the power at which more rows would be enough
ONE_POINT = 0.01  # what a candidate must be better for power to be stated
MOST_ROWS = 10_000_000
NORMAL = NormalDist()  # of the standard library: scipy.stats takes a second to import


@dataclass(frozen=True)
class Discordance:
    """On how many of n rows exactly one was right: the candidate (better) or the champion (worse)."""

    n: int
    better: float
    worse: float

    @property
    def delta(self) -> float:
        """Candidate's accuracy minus champion's."""
        return (self.better - self.worse) / self.n if self.n else 0.0

    @classmethod
    def of(cls, tally: Mapping[tuple[bool, bool], int]) -> Discordance:
        """Take the counts of rows by (candidate right, champion right)."""
        return cls(sum(tally.values()), tally.get((True, False), 0), tally.get((False, True), 0))

    def restricted_variance(self, delta: float) -> float:
        """Variance of one row's difference under the hypothesis that the true difference is `delta` (Tango 1998)."""
        a = 2 * self.n
        b = -self.better - self.worse + (2 * self.n - self.better + self.worse) * delta
        c = -self.worse * delta * (1 - delta)
        only_champion = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # its maximum-likelihood estimate
        return max(2 * only_champion + delta * (1 - delta), 0.0)


def lower_bound(counts: Discordance, confidence: float) -> float:
    """Return the one-sided lower confidence bound of candidate - champion.

    >>> round(lower_bound(Discordance(1000, 20, 20), 0.95), 4)
    -0.0112
    """
    z, excess = NORMAL.inv_cdf(confidence), counts.better - counts.worse - 0.5
    low, high = -1.0, max(counts.delta, -1.0)
    for _ in range(40):
        middle = (low + high) / 2
        if excess - counts.n * middle > z * sqrt(counts.n * counts.restricted_variance(middle)):
            low = middle
        else:
            high = middle
    return low


def upper_bound(counts: Discordance, confidence: float) -> float:
    """Return the one-sided upper confidence bound of candidate - champion."""
    return -lower_bound(Discordance(counts.n, counts.worse, counts.better), confidence)


def power(n: int, discordance: float, truth: float, margin: float, confidence: float) -> float:
    """Return the chance to be promoted at this true difference (normal approximation)."""
    share = max(discordance, abs(truth), 1 / (n + 2))
    expected = Discordance(n, n * (share + truth) / 2, n * (share - truth) / 2)
    shown = NORMAL.inv_cdf(confidence) * sqrt(n * expected.restricted_variance(-margin)) + 0.5 - n * margin
    spread = sqrt(n * max(share - truth * truth, 1e-12))
    return NORMAL.cdf((n * truth - max(shown, -0.5)) / spread)  # -0.5: nor may it look worse


def rows_needed(discordance: float, margin: float, confidence: float) -> int:
    """Return how many held-out rows promote a candidate that is one point better, with a power of 80 %."""
    low, high = 1, MOST_ROWS
    while low < high:
        middle = (low + high) // 2
        enough = power(middle, discordance, ONE_POINT, margin, confidence) >= POWER
        low, high = (low, middle) if enough else (middle + 1, high)
    return low


def mcnemar(better: int, worse: int) -> float:
    """Return the exact one-sided p-value of "the candidate is worse".

    >>> mcnemar(better=0, worse=5)
    0.03125
    """
    changed = better + worse
    tail: int = sum(comb(changed, k) for k in range(worse, changed + 1))
    return tail / (1 << changed)


def holm(p_values: Mapping[str, float], alpha: float) -> list[str]:
    """Return the names that Holm's step-down procedure rejects, the surest first; family-wise error <= alpha."""
    rejected: list[str] = []
    for name, p in sorted(p_values.items(), key=lambda item: (item[1], item[0])):
        if p > alpha / (len(p_values) - len(rejected)):
            break
        rejected.append(name)
    return rejected


@dataclass(frozen=True, kw_only=True)
class NotWorse:
    """Promote what looks no worse and is shown to be less than `margin` worse; reject what is shown to be worse; else wait."""

    name: ClassVar[str] = "not-worse"
    margin: float = 0.01  # of accuracy; 0: only what is shown to be better is promoted
    confidence: float = 0.95  # one-sided, of the first try against a champion; also of the classes' tests together
    min_class: int = 30  # held-out rows that a class needs to be tested by itself
    min_rows: int = 100  # held-out rows below which there is no verdict

    def __post_init__(self) -> None:
        """Refuse options that make no test."""
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin must be between 0 and 1, not {self.margin!r}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0.5 and 1, not {self.confidence!r}")
        if min(self.min_class, self.min_rows) < 1:
            raise ValueError("min_class and min_rows must be at least 1")

    def judge(self, scores: Paired) -> Verdict:
        """Judge paired held-out answers, row by row 1 where right and 0 where wrong."""
        classes = self._tallies(scores)
        total = sum(classes.values(), Counter[tuple[bool, bool]]())
        counts = Discordance.of(total)
        if counts.n < self.min_rows:
            few = f"only {counts.n} held-out rows and {self.min_rows} are needed: the champion stays for now"
            return Verdict(decision="undecided", reasons=[few], evidence={"n": counts.n, "min_rows": self.min_rows})
        tested = {name: Discordance.of(tally) for name, tally in classes.items() if sum(tally.values()) >= self.min_class}
        worse = holm({name: mcnemar(int(c.better), int(c.worse)) for name, c in tested.items()}, 1 - self.confidence)
        tries = 1 + sum(rows >= self.min_rows for rows in scores.earlier)
        evidence = {**self._evidence(counts, total, tries),
                    "classes": {"tested": len(tested), "min_rows": self.min_class, "worse": worse}}
        return self._decide(counts, {name: tested[name] for name in worse}, evidence)

    def _tallies(self, scores: Paired) -> dict[str, Counter[tuple[bool, bool]]]:
        """Count each class's rows by (candidate right, champion right)."""
        rows = Counter(zip(scores.classes, map(bool, scores.candidate), map(bool, scores.champion), strict=True))
        found: dict[str, Counter[tuple[bool, bool]]] = {}
        for (name, candidate, champion), n in rows.items():
            found.setdefault(name, Counter())[candidate, champion] = n
        return found

    def _evidence(self, counts: Discordance, total: Mapping[tuple[bool, bool], int], tries: int) -> dict[str, Any]:
        share = (counts.better + counts.worse + 1) / (counts.n + 2)  # Laplace: no difference seen is not none
        alpha = (1 - self.confidence) / tries**2
        chance = {name: power(counts.n, share, truth, self.margin, 1 - alpha)
                  for name, truth in (("equal", 0.0), ("one_point_better", ONE_POINT))}
        right = {"candidate": counts.better, "champion": counts.worse}  # and both, on the rows where they agree
        return {
            "n": counts.n, "accuracy": {who: (total.get((True, True), 0) + alone) / counts.n for who, alone in right.items()},
            "tries": tries, "alpha": alpha, "margin": self.margin, "confidence": self.confidence,
            "delta": counts.delta, "lower": lower_bound(counts, 1 - alpha), "upper": upper_bound(counts, self.confidence),
            "discordant": {"better": int(counts.better), "worse": int(counts.worse)}, "power": chance,
            "rows_needed": rows_needed(share, self.margin, 1 - alpha)}

    def _decide(self, counts: Discordance, worse: Mapping[str, Discordance], found: Mapping[str, Any]) -> Verdict:
        """Worse in a class or over all rejects; then not-worse promotes; what is left is undecided."""
        figures, chances = self._figures(counts, found), self._chances(found)
        if worse:
            lost = [f"class {name!r} is worse: {c.worse} answers lost and {c.better} won on its {c.n} held-out rows"
                    for name, c in worse.items()]
            return Verdict(decision="reject", reasons=[*lost, figures, chances], evidence=found)
        if found["upper"] < 0:
            return Verdict(decision="reject", reasons=["the candidate is worse: " + figures, chances], evidence=found)
        if found["lower"] > -self.margin and counts.delta >= 0:
            shown = f"not worse by {_points(self.margin)} or more" if self.margin else "better"
            return Verdict(decision="promote", reasons=[
                f"the candidate is {shown}: " + figures, chances,
                f"{found['classes']['tested']} classes tested by themselves, none worse"], evidence=found)
        return Verdict(decision="undecided", reasons=["too little evidence, the champion stays: " + figures, chances,
                                                      self._wanted(counts, found)], evidence=found)

    def _figures(self, counts: Discordance, found: Mapping[str, Any]) -> str:
        return (f"{_signed(counts.delta)} on {counts.n} held-out rows "
                f"({counts.better} answers won, {counts.worse} lost); with {_sure(found['alpha'])} confidence "
                f"above {_signed(found['lower'])}, with {_sure(1 - self.confidence)} below {_signed(found['upper'])}")

    def _chances(self, found: Mapping[str, Any]) -> str:
        chance = found["power"]
        return (f"power of try {found['tries']} against this champion: a candidate that is 1 point better passes with "
                f"{chance['one_point_better']:.0%} chance, an equally good one with {chance['equal']:.0%}")

    def _wanted(self, counts: Discordance, found: Mapping[str, Any]) -> str:
        more = found["rows_needed"] - counts.n
        if more > 0:
            return f"about {more} more held-out rows would promote a candidate that is 1 point better ({POWER:.0%} power)"
        return "the rows were enough for a candidate that is 1 point better: this one is probably less than that"


def _sure(alpha: float) -> str:
    """Return a confidence with the digits that tell it from certainty.

    >>> _sure(0.05), _sure(0.05 / 9), _sure(0.05 / 900)
    ('95%', '99.4%', '99.994%')
    """
    return f"{100 * (1 - alpha):.{max(0, ceil(-log10(alpha)) - 2)}f}%"


def _points(share: float) -> str:
    value = round(100 * share, 2)
    return f"{value:g} point" + ("" if value == 1 else "s")


def _signed(share: float) -> str:
    return f"{100 * share:+.2f} points"


@hookimpl
def register_gates() -> Iterable[type[Gate]]:
    """Offer the built-in gate."""
    return [NotWorse]
