"""`adaptd show` and `adaptd diff`: what a version is, and what lies between two; of a running or a stopped daemon's store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.cli.versions import NUMBER
from adaptd.errors import NotRunning

PLAIN = ("version", "kind", "live", "parent", "seq", "actor", "reason", "memory", "encoder", "config")


@click.command("show")
@options.config_option
@options.domain_option
@click.argument("number", type=NUMBER, metavar="N")
@options.json_option
def version(domain: str | None, number: int, as_json: bool) -> int:
    """Show a version in full.

    Exit code 3 when the daemon is not running: then the store itself is read.

    \b
    Example:
      adaptd show 7
    """
    name = options.chosen(domain)
    try:
        document = options.client().call("GET", options.route(name, f"versions/{number}"))
    except NotRunning:
        from adaptd import offline

        document = offline.version(options.paths(), name, number)
    show.data(document) if as_json else _version(document)
    return _code(document)


@click.command()
@options.config_option
@options.domain_option
@click.argument("one", type=NUMBER, metavar="N")
@click.argument("other", type=NUMBER, metavar="M")
@options.json_option
def diff(domain: str | None, one: int, other: int, as_json: bool) -> int:
    """Show what a version has more and less than another.

    What M has and N has not stands under +, the other way round under -. Exit code 3 when the daemon is not running:
    then the store itself is read.

    \b
    Example:
      adaptd diff 7 9
    """
    name = options.chosen(domain)
    try:
        document = options.client().call("GET", options.route(name, f"versions/{one}/diff/{other}"))
    except NotRunning:
        from adaptd import offline

        document = offline.difference(options.paths(), name, one, other)
    show.data(document) if as_json else _difference(document)
    return _code(document)


def _code(document: Mapping[str, Any]) -> int:
    return NotRunning.exit_code if document.get("state") == "stopped" else 0


def _version(document: Mapping[str, Any]) -> None:
    verdict = document["verdict"] or {}
    show.fields({**{name: document[name] for name in PLAIN}, "created": show.moment(document["created"]),
                 "verdict": verdict.get("decision"), "reasons": "; ".join(verdict.get("reasons", ())),
                 "evidence": verdict.get("evidence"), **document["metrics"], "files": document["files"]})
    show.table(("head", "label", "rows"), (
        (head, label, rows) for head, labels in document["heads"].items() for label, rows in labels.items()))
    show.table(("at", "what", "before", "after", "who", "why"), (
        (show.moment(a["at"]), a["what"], a["before"], a["after"], a["actor"], a["reason"]) for a in document["history"]))


def _difference(document: Mapping[str, Any]) -> None:
    rows, labels = document["rows"], document["labels"]
    found = {(head, label) for side in ("added", "removed") for head, tally in rows[side].items() for label in tally}
    show.table(("head", "label", "+ rows", "- rows", ""), (
        (head, label, rows["added"].get(head, {}).get(label, 0), rows["removed"].get(head, {}).get(label, 0),
         "new" if label in labels["added"].get(head, ()) else "gone" if label in labels["removed"].get(head, ()) else "")
        for head, label in sorted(found)))
    show.line(f"{rows['kept']} rows are in both")
    show.table(("figure", str(document["from"]), str(document["to"])), (
        (name, *pair) for name, pair in document["metrics"].items()))
