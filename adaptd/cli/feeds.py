"""The streams that the daemon follows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def feeds() -> None:
    """Show, pause and resume feeds, and what they gave that was not taken.

    \b
    Example:
      adaptd feeds pause tickets
    """


@feeds.command("list")
@options.config_option
@options.json_option
def list_(as_json: bool) -> None:
    """List the feeds, where they stand and what is wrong.

    \b
    Example:
      adaptd feeds list
    """
    document = options.client().call("GET", "/v1/feeds")
    if as_json:
        show.data(document)
        return
    show.table(("feed", "state", "offset", "lag", "errors", "dead"), (
        (name, f["state"], f["offset"], f["lag"], f["errors"], f.get("dead", 0)) for name, f in document["feeds"].items()))


@feeds.command()
@options.config_option
@click.argument("name")
@options.json_option
def pause(name: str, as_json: bool) -> None:
    """Stop reading a feed; it keeps its place.

    \b
    Example:
      adaptd feeds pause tickets
    """
    _change(name, "pause", as_json)


@feeds.command()
@options.config_option
@click.argument("name")
@options.json_option
def resume(name: str, as_json: bool) -> None:
    """Go on reading a feed from its place.

    \b
    Example:
      adaptd feeds resume tickets
    """
    _change(name, "resume", as_json)


@feeds.group(cls=NounGroup)
@options.config_option
def dead() -> None:
    """Show, try again or drop what feeds gave and was not taken.

    \b
    Example:
      adaptd feeds dead list tickets
    """


@dead.command("list")
@options.config_option
@click.argument("name")
@click.option("--after", type=click.IntRange(0), default=0, help="Behind this id.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many.")
@options.json_option
def dead_list(name: str, after: int, limit: int, as_json: bool) -> None:
    """List what a feed gave and was not taken, and why, oldest first.

    \b
    Example:
      adaptd feeds dead list tickets
    """
    document = options.client().call("GET", f"{_dead(name)}?after={after}&limit={limit}")
    if as_json:
        show.data(document)
        return
    show.table(("id", "since", "reason", "element"),
               ((one["id"], show.moment(one["at"]), _words(one["reason"]), one["raw"]) for one in document["dead"]))
    show.say(f"{document['total']} in all")


@dead.command()
@options.config_option
@click.argument("name")
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@click.option("--all", "every", is_flag=True, help="All that the feed has.")
@options.json_option
def retry(name: str, ids: tuple[int, ...], every: bool, as_json: bool) -> int:
    """Try elements again, after their cause is mended; what is taken leaves the list.

    Exit code 1 when some are left.

    \b
    Example:
      adaptd feeds dead retry tickets 3 4
    """
    document = options.client().call("POST", f"{_dead(name)}/retry", _chosen(ids, every))
    if as_json:
        show.data(document)
    else:
        show.line(f"{name}: {document['taken']} taken, {len(document['left'])} left")
    return 1 if document["left"] else 0


@dead.command()
@options.config_option
@click.argument("name")
@click.argument("ids", nargs=-1, type=click.IntRange(1))
@click.option("--all", "every", is_flag=True, help="All that the feed has.")
@options.json_option
def drop(name: str, ids: tuple[int, ...], every: bool, as_json: bool) -> None:
    """Let elements go for ever.

    \b
    Example:
      adaptd feeds dead drop tickets --all
    """
    document = options.client().call("POST", f"{_dead(name)}/drop", _chosen(ids, every))
    if as_json:
        show.data(document)
    else:
        show.line(f"{name}: {document['dropped']} dropped")


def _dead(name: str) -> str:
    return f"/v1/feeds/{quote(name, safe='')}/dead"


def _chosen(ids: tuple[int, ...], every: bool) -> dict[str, Any]:
    if bool(ids) == every:
        raise click.UsageError("name ids, or give --all")
    return {"all": True} if every else {"ids": list(ids)}


def _words(reason: str) -> str:
    """Return the message of a reason; stores of older adaptds have bare words."""
    try:
        return str(json.loads(reason)["message"])
    except (ValueError, TypeError, KeyError):
        return reason


def _change(name: str, verb: str, as_json: bool) -> None:
    document = options.client().call("POST", f"/v1/feeds/{quote(name, safe='')}/{verb}", {})
    if as_json:
        show.data(document)
    else:
        show.line(f"{name}: {verb}d")
