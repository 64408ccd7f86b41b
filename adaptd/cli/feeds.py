"""The streams that the daemon follows."""

from __future__ import annotations

from urllib.parse import quote

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def feeds() -> None:
    """Show, pause and resume feeds.

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
    show.table(("feed", "state", "offset", "lag", "errors"), (
        (name, f["state"], f["offset"], f["lag"], f["errors"]) for name, f in document["feeds"].items()))


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


def _change(name: str, verb: str, as_json: bool) -> None:
    document = options.client().call("POST", f"/v1/feeds/{quote(name, safe='')}/{verb}", {})
    if as_json:
        show.data(document)
    else:
        show.line(f"{name}: {verb}d")
