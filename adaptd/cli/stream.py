"""Small things on the stream: predict, feedback, hold and resume."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import click

from adaptd.cli import options, show

SOURCE = "cli"


@click.command()
@options.config_option
@options.domain_option
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("--explain", is_flag=True, help="Name the remembered examples that decided.")
@options.json_option
def predict(domain: str | None, texts: tuple[str, ...], explain: bool, as_json: bool) -> None:
    """Answer texts.

    \b
    Example:
      adaptd predict "where is my card?"
    """
    body = {"inputs": [{"text": text, "source": SOURCE} for text in texts], "explain": explain}
    document = options.client().call("POST", options.route(options.chosen(domain), "predict"), body)
    if as_json:
        show.data(document)
        return
    found = document["predictions"]
    show.table(("label", "confidence", "event", "text"), (
        (p["label"], show.percent(p["confidence"]), p["event"], text) for p, text in zip(found, texts, strict=True)))
    if explain:
        show.table(("for", "weight", "label", "similarity", "source", "text"), (
            (p["event"], show.percent(e["weight"]), e["label"], e["similarity"], e["source"], e.get("text"))
            for p in found for e in show.evidence(p)))


@click.command()
@options.config_option
@options.domain_option
@click.option("--source", metavar="S", help="EVENT is the id that this source gave.")
@click.argument("event")
@click.argument("label")
@options.json_option
def feedback(domain: str | None, source: str | None, event: str, label: str, as_json: bool) -> None:
    """Give a label to an earlier event.

    EVENT is the id from the answer or the receipt. A second label corrects the first. A LABEL of several heads, or of
    several labels, is JSON: '{"topic": "card"}', '["card", "urgent"]'.

    \b
    Example:
      adaptd feedback 17-9f86d081 lost_card
    """
    named = {"event": event} if source is None else {"source": source, "id": event}
    path = options.route(options.chosen(domain), "feedback")
    document = options.client().call("POST", path, {**named, "label": _label(label)})
    if as_json:
        show.data(document)
    elif document["held"]:
        show.line("kept; learning is on hold")
    else:
        show.line("learned" if document["accepted"] else "known already")


def _label(given: str) -> Any:
    """Read a label; one that is written as an object or a list is that."""
    if given.startswith(("{", "[")):
        with suppress(ValueError):
            return json.loads(given)
    return given


@click.command()
@options.config_option
@options.domain_option
@click.option("--learning", is_flag=True, help="Labels wait (the default).")
@click.option("--adaptation", is_flag=True, help="No candidate is trained; one that is being trained is paused.")
@click.option("--source", metavar="S", default="", help="Only the labels of this source wait.")
@options.reason_option
@options.json_option
def hold(domain: str | None, learning: bool, adaptation: bool, source: str, reason: str, as_json: bool) -> None:
    """Stop learning or adaptation; answers go on.

    \b
    Example:
      adaptd hold --source crm --reason "labels look shuffled"
    """
    what = _what(learning, adaptation, source, ("learning",))
    _each("hold", domain, what, source, reason, as_json, "on hold")


@click.command()
@options.config_option
@options.domain_option
@click.option("--learning", is_flag=True, help="Only learning.")
@click.option("--adaptation", is_flag=True, help="Only adaptation.")
@click.option("--source", metavar="S", default="", help="Only the labels of this source.")
@click.option("--drop", is_flag=True, help="With --source: what waited is never learned.")
@options.reason_option
@options.json_option
def resume(domain: str | None, learning: bool, adaptation: bool, source: str, drop: bool, reason: str, as_json: bool) -> None:
    """Go on, and learn what waited.

    A source that is on hold by itself stays so. With --source what waited of it is admitted, whatever other sources
    taught, or dropped.

    \b
    Example:
      adaptd resume --reason "the feed is mended"
      adaptd resume --source intern --drop --reason "shuffled labels"
    """
    if drop and not source:
        raise click.UsageError("--drop is about one source: add --source")
    what = _what(learning, adaptation, source, ("learning",) if source else ("learning", "adaptation"))
    _each("resume", domain, what, source, reason, as_json, "resumed", **({"drop": True} if drop else {}))


def _what(learning: bool, adaptation: bool, source: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if adaptation and source:
        raise click.UsageError("--source is about learning; adaptation knows no sources")
    return tuple(name for name, on in (("learning", learning), ("adaptation", adaptation)) if on) or default


def _each(verb: str, domain: str | None, what: tuple[str, ...], source: str, reason: str, as_json: bool,
          words: str, **more: bool) -> None:
    path, client = options.route(options.chosen(domain), verb), options.client()
    documents = {one: client.call("POST", path, {"what": one, "source": source, "reason": reason, **more}) for one in what}
    if as_json:
        show.data(documents)
        return
    for one, document in documents.items():
        became = [f"{document[how]} labels that waited are {how}" for how in ("learned", "dropped") if document.get(how)]
        waited = "".join(f"; {one}" for one in became)
        show.line(f"{one}{f' of {source}' if source else ''}: {words}{waited}")
