"""Opinion monitoring: what a text is about, how it is meant, and an alert when negative opinion surges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import adaptd
from adaptd_finance.opinion import Opinion

SENTIMENTS = ("negative", "neutral", "positive")


class Finance(adaptd.Domain):
    """Topic and sentiment of `{"text": …, "title"?: …, "entity"?: …}`; with `several` an event has a list of topics.

    A label is `{"topic": …, "sentiment": …}`, or one of the two.
    """

    name = "finance"
    heads: Mapping[str, Any] = {"topic": adaptd.Classify(), "sentiment": adaptd.Ordinal(classes=SENTIMENTS)}
    samples = [
        {"title": "Profit warning", "text": "Sales fell by a third.", "entity": "ACME",
         "label": {"topic": "earnings", "sentiment": "negative"}},
        {"text": "The flight was on time.", "entity": "ACME", "label": {"sentiment": "positive"}}]

    def __init__(self, several: bool = False) -> None:
        if several:
            self.heads = {**self.heads, "topic": adaptd.Labels()}

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the title and the text."""
        for field in ("title", "text", "entity"):
            if not isinstance(payload.get(field, ""), str):
                raise adaptd.BadPayload(f"{field} must be a string", field=field, hint='send {"text": "…", "entity": "ACME"}')
        text = "\n".join(part for field in ("title", "text") if (part := payload.get(field, "").strip()))
        if not text:
            raise adaptd.BadPayload("an opinion needs words", field="text", hint='send {"text": "…", "entity": "ACME"}')
        return adaptd.Example(text=text)


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Finance]


@adaptd.hookimpl
def register_observers() -> Iterable[type[adaptd.Observer]]:
    """Offer what watches opinion."""
    return [Opinion]
