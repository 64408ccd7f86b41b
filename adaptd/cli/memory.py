"""What is remembered, and why an event was answered as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def memory() -> None:
    """Look into what is remembered.

    \b
    Example:
      adaptd memory search "lost card"
    """


@memory.command()
@options.config_option
@options.domain_option
@options.json_option
def stats(domain: str | None, as_json: bool) -> None:
    """Count what is remembered, by label.

    \b
    Example:
      adaptd memory stats
    """
    document = options.client().call("GET", options.route(options.chosen(domain), "memory"))
    if as_json:
        show.data(document)
        return
    for name, head in document["heads"].items():
        rest = ", ".join(f"{value} {what}" for what, value in head.items() if what != "labels")
        show.line(f"{name}: {rest}")
        show.table(("label", "remembered"), head["labels"].items())


@memory.command()
@options.config_option
@options.domain_option
@click.argument("text")
@click.option("-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@options.json_option
def search(domain: str | None, text: str, k: int, as_json: bool) -> None:
    """Show the remembered examples that are nearest to a text.

    \b
    Example:
      adaptd memory search "lost card" -k 5
    """
    path = options.route(options.chosen(domain), "memory/search")
    document = options.client().call("POST", path, {"text": text, "k": k})
    if as_json:
        show.data(document)
    else:
        _neighbours(document["results"])


@click.command()
@options.config_option
@options.domain_option
@click.argument("event")
@click.option("--counterfactual", is_flag=True, help="Also find the records that flip the answer if they are forgotten.")
@options.json_option
def explain(domain: str | None, event: str, counterfactual: bool, as_json: bool) -> None:
    """Show what answered an event, when, and why it would be answered so now.

    \b
    Example:
      adaptd explain 17-9f86d081 --counterfactual
    """
    path = options.route(options.chosen(domain), f"explain/{quote(event, safe='')}")
    document = options.client().call("GET", path + ("?counterfactual=true" if counterfactual else ""), timeout_s=300.0)
    if as_json:
        show.data(document)
        return
    _story(document)
    for head, found in document.get("counterfactual", {}).items():
        _counterfactual(head, found)


def _story(document: Mapping[str, Any]) -> None:
    show.fields({name: document[name] for name in ("event", "source", "payload")})
    show.line(f"came {show.moment(document['received'])}, while version {show.cell(document['live_then'])} was live")
    show.table(("answered", "version", "seq", "labels", "confidence"), (
        (show.moment(a["at"]), a["version"], a["seq"], a["labels"], show.percent(a["confidence"]))
        for a in document["answers"]))
    show.table(("labelled", "label", "by", "held"), (
        (show.moment(one["at"]), one["label"], one["source"], one["held"]) for one in document["labels"]))
    now = document["now"]
    show.line(f"now: {show.cell(now['label'])} ({show.percent(now['confidence'])}), because of")
    show.table(("expert", "trust", "says", "probability"), (
        (one["expert"], show.percent(one["trust"]), one["label"], show.percent(one["probability"]))
        for head in now.get("heads", {"": now}).values() for one in head.get("experts", ())))
    for rule in (one for head in now.get("heads", {"": now}).values() for one in head.get("rules", ())):
        show.line(f"rule {rule['rule']}: {rule['did']} {rule.get('label') or rule.get('error')}")
    _neighbours(show.evidence(now))


def _counterfactual(head: str, found: Mapping[str, Any]) -> None:
    """Show one head's: what flips the answer, and what whole sources do."""
    show.line(f"{head}: {found['words']}")
    if found["records"]:
        show.table(("event", "label", "taught by", "similarity", "payload"), (
            (r["event"], r["label"], r["source"], r["similarity"], r["payload"]) for r in found["records"]))
    for one in found["sources"]:
        without = f"without all {one['records']} records from {one['source']}"
        show.line(f"{without}: {show.cell(one['label'])} ({show.percent(one['confidence'])})" if "label" in one else
                  f"{without}: too many to try")


def _neighbours(found: list[Mapping[str, Any]]) -> None:
    known = ("weight", "similarity", "label", "taught", "source", "event", "text")
    names = [name for name in known if any(name in one and (name != "taught" or one[name] != one["label"]) for one in found)]
    show.table(names, ([one.get(name) for name in names] for one in found))
