"""Machine translation: a model of encoder and decoder, and the pairs that were taught, which it looks at while it writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import adaptd
from adaptd_translate.quality import Quality

HEAD = "translation"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


@dataclass
class Translate(adaptd.Domain):
    """A text `{"text": …}`; its label is its translation. Texts and translations are of one language each."""

    name = "translate"
    heads = {HEAD: adaptd.Generate(trainable=True)}
    samples = [{"text": "A dog runs.", "label": "Ein Hund läuft."}, {"text": "Good morning"}]

    model: str = ""  # a folder, or a name of the hub
    pairs: int = 8  # remembered pairs that are looked at
    beams: int = 4
    trust: float = 0.35  # how far a remembered place may be, to count: 0 nothing, 1 as far as places that have nothing in common
    characters: int = 5000  # of the longest text
    source: str | None = None  # the languages' names, where the model knows several
    target: str | None = None
    threads: int = 0  # 0: half of the cores
    download: bool = False  # may fetch a model of the hub
    rank: int = 16  # of the LoRA weights that an adaptation trains,
    epochs: int = 10  # over all remembered pairs,
    rate: float = 1e-3  # at first

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if min(self.pairs, self.threads) < 0 or min(self.beams, self.characters) < 1 or not 0 <= self.trust <= 1:
            raise ValueError("pairs and threads must not be negative, beams and characters at least 1, trust from 0 to 1")
        if min(self.rank, self.epochs) < 1 or not 0 < self.rate < 1:
            raise ValueError("rank and epochs must be at least 1, rate between 0 and 1")
        self.evidence = self.pairs

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the text; control characters count as spaces."""
        text = payload.get("text")
        if not isinstance(text, str):
            raise adaptd.BadPayload("text must be a string", field="text", hint='send {"text": "…"}')
        if not (text := CONTROL.sub(" ", text).strip()):
            raise adaptd.BadPayload("there is nothing to translate", field="text", hint="send a text with characters")
        if len(text) > self.characters:
            raise adaptd.BadPayload(f"a text of {len(text)} characters; the limit is {self.characters}", field="text",
                                    hint="send its parts one by one, or raise options.characters")
        return adaptd.Example(text=text)

    def generator(self) -> adaptd.Generator:
        """Return what translates."""
        from adaptd_translate.translator import Translator

        return Translator(self)

    def render(self, prediction: adaptd.Prediction) -> Mapping[str, Any]:
        """Show the remembered pairs that were looked at."""
        head = prediction.heads[HEAD]
        return {"remembered": [{"text": one.text, "translation": head.whole(one.label), "by": one.source, "event": one.event,
                                "similarity": round(one.similarity, 4)} for one in head.evidence]}


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Translate]


@adaptd.hookimpl
def register_observers() -> Iterable[type[adaptd.Observer]]:
    """Offer what measures translations."""
    return [Quality]
