"""Tagging: how a domain whose heads tag words makes rows of spans and the text of their event.

Where: under ingest, which checks spans that come with an event; the journal checks those that come later, as it reads the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from adaptd.config import DomainSettings
from adaptd.errors import BadConfig, BadPayload
from adaptd.heads import Spans
from adaptd.interfaces import Domain, Encoder


@dataclass(frozen=True)
class Tagging:
    """Makes rows of a domain's spans."""

    domain: Domain

    def text(self, payload: Mapping[str, Any]) -> str:
        """Return the text of a stored event, as its domain reads it; raise BadPayload where it takes it no more."""
        try:
            return self.domain.example(payload).text or ""
        except Exception as error:  # a plugin's new version may raise anything on what its old one took
            raise BadPayload(f"the domain does not take this event any more: {error!a:.300}", field="event",
                             hint="send it again as the domain wants it") from error

    def rows(self, head: str, target: str, text: str) -> Iterable[tuple[int, str]]:
        """Return part and target of each row of a label; raise BadPayload where its spans are not of the text."""
        kind = self.domain.heads[head]
        return kind.rows(target, text).items() if isinstance(kind, Spans) else ((0, target),)

    def check(self, targets: Mapping[str, str], text: str) -> None:
        """Refuse spans that are not of the text: raise BadPayload."""
        for head, target in targets.items():
            self.rows(head, target, text)


def check_tags(name: str, domain: Domain, of: str, encoder: Encoder) -> None:
    """Refuse an encoder that gives a text one vector where its words are tagged, or the other way round: raise BadConfig."""
    tags, heads = getattr(encoder, "tags", False), [isinstance(head, Spans) for head in domain.heads.values()]
    field = f"domains.{name}.encoder"
    if any(heads) and not all(heads):
        raise BadConfig(f"domains.{name}: some of its heads tag words, and others do not", field=f"domains.{name}",
                        hint="what is asked of the whole text is a domain of its own")
    if tags and not all(heads):
        raise BadConfig(f"domains.{name}: [encoders.{of}] gives each word a vector, and no head of the domain tags words",
                        field=field, hint='name one of kind = "transformers"')
    if all(heads) and not tags:
        raise BadConfig(f"domains.{name}: it tags words, and [encoders.{of}] gives a text one vector", field=field,
                        hint='make one for words, [encoders.words] kind = "words", and name it: encoder = "words"')


def tags_words(domain: Domain) -> bool:
    """Say whether a domain's heads tag words."""
    return any(isinstance(head, Spans) for head in domain.heads.values())


def tagging(name: str, domain: Domain, settings: DomainSettings) -> Tagging | None:
    """Return what makes rows of a domain's spans; None of one that tags no words.

    Raises
    ------
    BadConfig
        Something is configured that moves characters to which spans point, or that goes by the vector of a whole text.
    """
    if not tags_words(domain):
        return None
    if settings.redact.entities and settings.redact.action != "reject":
        raise BadConfig(f"domains.{name}: what is put in the place of personal data moves the characters that spans point to",
                        field=f"domains.{name}.redact.action", hint='redact.action = "reject"')
    if settings.documents.folder is not None:
        raise BadConfig(f"domains.{name}: documents are found by a text's vector, and this domain has one for each word",
                        field=f"domains.{name}.documents.folder", hint="take it out")
    if domain.ranker is not None:
        raise BadConfig(f"domains.{name}: it ranks by a text's vector, and has one for each word", field=f"domains.{name}",
                        hint="what is ranked is a domain of its own")
    return Tagging(domain)
