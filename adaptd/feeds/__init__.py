"""Feeds: streams that are followed. Each gives batches with the cursor after every element, at least once."""

from __future__ import annotations

from collections.abc import Iterable

from adaptd.feeds.jsonl import Jsonl
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Feed


@hookimpl
def register_feeds() -> Iterable[type[Feed]]:
    """Offer the built-in feeds."""
    return [Jsonl]
