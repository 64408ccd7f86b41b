"""Quality: BLEU and chrF of what was answered against what was taught afterwards, in the order of time (prequential)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import adaptd


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Measures the newest translations that a person has translated, too: those of each source, and all (Post, 2018)."""

    name: ClassVar[str] = "quality"
    rolling: int = 500  # newest translations that are measured
    tokenize: str = "13a"  # sacrebleu's: "zh", "ja-mecab", "ko-mecab", "flores200" …
    head: str = "translation"

    def __post_init__(self) -> None:
        """Refuse what is no number of translations."""
        if self.rolling < 1:
            raise ValueError("rolling must be at least 1")

    def look(self, seen: Sequence[adaptd.Observed]) -> adaptd.Sighting:
        """Return the figures; who teaches what was answered before is measured, a correction of one's own too."""
        pairs = [(one.source, str(one.answered[self.head]), str(one.labels[self.head])) for one in seen
                 if self.head in one.taught and one.answered.get(self.head) is not None][-self.rolling :]
        sources = {source: [pair for pair in pairs if pair[0] == source] for source, _, _ in pairs}
        return adaptd.Sighting(figures={"all": self._figures(pairs),
                                        "sources": {name: self._figures(mine) for name, mine in sources.items()}})

    def _figures(self, pairs: Sequence[tuple[str, str, str]]) -> Mapping[str, Any]:
        if not pairs:
            return {"translations": 0}
        bleu, chrf = scores([answer for _, answer, _ in pairs], [truth for _, _, truth in pairs], self.tokenize)
        return {"translations": len(pairs), "bleu": round(bleu, 2), "chrf": round(chrf, 2)}


def scores(answers: Sequence[str], truths: Sequence[str], tokenize: str = "13a") -> tuple[float, float]:
    """Return BLEU (Papineni et al., 2002) and chrF (Popović, 2015) of a corpus, by sacrebleu.

    >>> scores(["Ein Hund läuft im Park."], ["Ein Hund läuft im Park."])
    (100.0, 100.0)
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu = BLEU(tokenize=tokenize).corpus_score(list(answers), [list(truths)]).score
    return round(bleu, 4), round(CHRF().corpus_score(list(answers), [list(truths)]).score, 4)
