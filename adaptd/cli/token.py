"""Who may do what over TCP. Works on a running daemon, which knows of a change at once, and on a stopped one's store."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

import click

from adaptd import clock
from adaptd.cli import options, show
from adaptd.cli.group import NounGroup
from adaptd.errors import NotRunning
from adaptd.grants import ROLES

UNITS_S = {"m": 60, "h": 3600, "d": 86400}


@click.group(cls=NounGroup)
@options.config_option
def token() -> None:
    """Say who may do what over TCP.

    \b
    Example:
      adaptd token create crm --role ingest --role label --domain tickets --source crm
    """


@token.command("list")
@options.config_option
@options.json_option
def list_(as_json: bool) -> None:
    """List the tokens, what they allow, and when they were last used.

    \b
    Example:
      adaptd token list
    """
    try:
        document = options.client().call("GET", "/v1/tokens")
    except NotRunning:
        from adaptd import offline

        document = offline.tokens(options.paths())
    if as_json:
        show.data(document)
        return
    show.table(("token", "state", "roles", "domains", "source", "created", "by", "expires", "last used"), (
        (one["name"], one["state"], ", ".join(one["roles"]), "all" if one["domains"] is None else ", ".join(one["domains"]),
         one["source"], show.moment(one["created"]), one["creator"], show.moment(one["expires"]), show.moment(one["used"]))
        for one in document["tokens"]))


def _until(_: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a span from now, or a moment."""
    if value is None:
        return None
    if found := re.fullmatch(r"(\d{1,6})([mhd])", value):
        return time.time() + int(found[1]) * UNITS_S[found[2]]
    given = options.moment(_, param, value)
    return None if given is None else clock.moment(given, "expires")


@token.command()
@options.config_option
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, type=click.Choice(list(ROLES)),
              help="What it may do; may be repeated.")
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="Only for this domain; may be repeated.")
@click.option("--source", metavar="S", help="It speaks for this source alone.")
@click.option("--expires", callback=_until, metavar="WHEN",
              help="In how long (90d, 12h, 30m), or when: ISO 8601 with a zone, or seconds since the epoch.")
@options.json_option
def create(name: str, roles: tuple[str, ...], domains: tuple[str, ...], source: str | None, expires: float | None,
           as_json: bool) -> None:
    """Make a token and print it, this once: only its digest is kept.

    \b
    Example:
      adaptd token create crm --role ingest --role label --domain tickets --source crm --expires 90d
    """
    body: dict[str, Any] = {"name": name, "roles": sorted(set(roles)), "domains": sorted(set(domains)) or None, "source": source,
                            "expires": expires}
    document: Any
    try:
        document = options.client().call("POST", "/v1/tokens", body)
    except NotRunning:
        from adaptd import offline

        document = offline.create_token(options.paths(), name, options.actor(), roles=body["roles"], domains=body["domains"],
                                        source=source, expires=expires)
    if as_json:
        show.data(document)
        return
    show.say(f"{name}: keep it now, it is not shown again")
    show.line(document["token"])


@token.command()
@options.config_option
@click.argument("name")
@options.reason_option
@options.json_option
def revoke(name: str, reason: str, as_json: bool) -> None:
    """End a token, at once and for good.

    \b
    Example:
      adaptd token revoke crm --reason "the laptop is lost"
    """
    document: Any
    try:
        document = options.client().call("POST", f"/v1/tokens/{quote(name, safe='')}/revoke", {"reason": reason})
    except NotRunning:
        from adaptd import offline

        document = offline.revoke_token(options.paths(), name, reason, options.actor())
    if as_json:
        show.data(document)
    else:
        show.line(f"{name}: {document['state']}")
