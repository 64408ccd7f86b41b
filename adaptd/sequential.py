"""A sequential test that may be looked at after every label: is one model worse than another on the same rows? Pure.

Only rows on which exactly one of the two was right tell them apart. Hypothesis: the new model is not worse, that is,
whatever came before, such a row goes against it with a chance of at most one half. A bet of the share L, 0 to 1, of the
wealth on "against" then multiplies it by 1 + L or 1 - L and is no favourable one; the mean over all L of what has become
of one unit is the e-value. By Ville's inequality it ever reaches 1/alpha with a chance of at most alpha while the hypothesis
holds, however often one looks and whenever one stops.

It is the mixture sequential probability ratio test (Robbins, 1970; Johari et al., 2022, Operations Research 70:1806-1821)
in the betting form of Waudby-Smith and Ramdas (2023, JRSS B 86:1-27). With a uniform mixture it has a closed form in the two
counts, so there is nothing else to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptd.model.network import Shadow

MOST = 1e12  # an e-value beyond it says nothing more


def e_value(better: int, worse: int) -> float:
    """Return the evidence that the new model is worse: it alone was right on `better` rows, the old one alone on `worse`.

    ``integral of 2 t^worse (1-t)^better 2^n over t in [1/2, 1] = sum of C(n+1, k) over k <= worse / ((n+1) C(n, worse))``.

    >>> [e_value(0, n) for n in range(4)]
    [1.0, 1.5, 2.3333333333333335, 3.75]
    >>> e_value(10, 0) < 0.1
    True
    """
    n = better + worse
    term = total = (n + 1) / (better + 1)  # C(n+1, worse) / C(n, worse)
    for k in range(worse, 0, -1):
        term *= k / (n + 2 - k)
        total += term
    return min(total / (n + 1), MOST)


@dataclass
class Trial:
    """A promoted version on probation: it and the old champion on the same labelled rows, a fold over the journal."""

    version: int  # that was promoted
    champion: int  # under which the old one was saved
    began: float
    shadows: Mapping[str, Shadow]  # the old champion, head by head, where the two differ
    n: int = 0
    better: int = 0  # rows on which the new one alone was right
    worse: int = 0  # rows on which the old one alone was

    def add(self, new: bool, old: bool) -> None:
        """Count one labelled row."""
        self.n += 1
        self.better += new and not old
        self.worse += old and not new

    @property
    def e_value(self) -> float:
        """The evidence so far that the new one is worse."""
        return e_value(self.better, self.worse)

    def evidence(self) -> dict[str, Any]:
        """Return the counts and what they say, for status and history."""
        return {"version": self.version, "champion": self.champion, "compared": self.n, "better": self.better,
                "worse": self.worse, "e_value": round(self.e_value, 4)}

    def facts(self) -> dict[str, int]:
        """Return the fold for a file."""
        return {"version": self.version, "n": self.n, "better": self.better, "worse": self.worse}

    def go_on(self, facts: Mapping[str, int] | None) -> None:
        """Take over the counts of a file, if they are this version's."""
        if facts is not None and facts["version"] == self.version:
            self.n, self.better, self.worse = facts["n"], facts["better"], facts["worse"]
