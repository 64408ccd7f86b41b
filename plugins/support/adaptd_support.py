"""Customer-service messages; the label is the intent that an agent confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd

SURE = 0.5  # below this confidence a person should look


class Support(adaptd.Domain):
    """One intent per message: `{"text": …}`, or a mail as `{"subject": …, "body": …}`."""

    name = "support"
    heads = {"intent": adaptd.Classify()}
    samples = [{"text": "my card is gone", "label": "card_lost"}, {"subject": "Card", "body": "It is gone.\n"}]

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the message to read, the subject first."""
        parts = [payload[field] for field in ("text", "subject", "body") if payload.get(field) is not None]
        if not all(isinstance(part, str) for part in parts):
            raise adaptd.BadPayload("text, subject and body must be strings", field="text")
        text = "\n".join(part.strip() for part in parts).strip()
        if not text:
            raise adaptd.BadPayload("a message needs words", field="text", hint='send {"text": …}, or subject and body')
        return adaptd.Example(text=text)

    def render(self, prediction: adaptd.Prediction) -> Mapping[str, Any]:
        """Say whether the answer may go out by itself or a person should look."""
        return {"intent": prediction.label, "hand_over": prediction.label is None or prediction.confidence < SURE}


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Support]
