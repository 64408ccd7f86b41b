"""Forget: records go, and what was learned from them; a certificate stays."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.errors import NotRunning


@click.command()
@options.config_option
@options.domain_option
@click.option("--event", metavar="ID", help="One event, by the id in its receipt or answer.")
@click.option("--source", metavar="NAME", help="All events that came from a source.")
@click.option("--subject", metavar="NAME", help="All events about a subject.")
@click.option("--label", metavar="NAME", help="All events that were ever taught a label.")
@click.option("--since", metavar="TIME", help="All events received from then on: ISO 8601 with a zone, or seconds.")
@click.option("--until", metavar="TIME", help="With --since: and before then.")
@click.option("--reason", metavar="TEXT", required=True, help="Why, for the certificate.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.json_option
def forget(domain: str | None, reason: str, yes: bool, as_json: bool, **given: str | None) -> None:
    """Remove records and their influence, for good.

    Answers afterwards are those of a model that never saw them, and the bytes are gone from the disk. A version whose
    adapter was trained on them is retired. Works on a stopped daemon's store too.

    \b
    Example:
      adaptd forget --subject "customer 17" --reason "their request"
    """
    name = options.chosen(domain)
    selector = {kind: _time(value) if kind in ("since", "until") else value for kind, value in given.items() if value is not None}
    if len([kind for kind in selector if kind != "until"]) != 1:
        raise click.UsageError("give exactly one of --event, --source, --subject, --label, --since")
    _confirm(selector, yes)
    document: Mapping[str, Any]
    try:
        body = {**selector, "reason": reason}
        document = options.client().call("POST", options.route(name, "forget"), body, timeout_s=None)
    except NotRunning:
        from adaptd import offline
        from adaptd.selector import Selector

        document = offline.forget(options.paths(), name, Selector.of(selector), reason, options.actor())
    if as_json:
        show.data(document)
    else:
        _tell(document)


def _time(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value


def _confirm(selector: Mapping[str, Any], yes: bool) -> None:
    """Ask on a terminal; without one, only --yes will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone; say --yes where nobody can be asked")
    what = ", ".join(f"{kind} {show.plain(str(value))}" for kind, value in selector.items())
    click.confirm(f"forget {what}, for good?", abort=True, err=True)


def _tell(document: Mapping[str, Any]) -> None:
    removed, versions = document["removed"], document["versions"]
    show.line(f"forgotten: {removed['event']} events, {removed['label']} labels, {removed['learned']} learned rows")
    if not removed["event"]:
        show.say("nothing matched")
    if versions["retired"]:
        show.say(f"retired: versions {', '.join(map(str, versions['retired']))}; version {versions['live']} answers")
    show.say(f"certificate {document['certificate']}; adaptd history shows it")
