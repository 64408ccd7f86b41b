"""Where predictions, verdicts and alerts are sent."""

from __future__ import annotations

from urllib.parse import quote

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def outputs() -> None:
    """Show, pause and resume outputs.

    \b
    Example:
      adaptd outputs pause warehouse
    """


@outputs.command("list")
@options.config_option
@options.json_option
def list_(as_json: bool) -> None:
    """List the outputs, where they stand and what is wrong.

    \b
    Example:
      adaptd outputs list
    """
    document = options.client().call("GET", "/v1/outputs")
    if as_json:
        show.data(document)
        return
    show.table(("output", "state", "offset", "lag", "errors", "sent"), (
        (name, o["state"], o["offset"], o["lag"], o["errors"], o["sent"]) for name, o in document["outputs"].items()))


@outputs.command()
@options.config_option
@click.argument("name")
@options.json_option
def pause(name: str, as_json: bool) -> None:
    """Stop sending to an output; it keeps its place.

    \b
    Example:
      adaptd outputs pause warehouse
    """
    _change(name, "pause", as_json)


@outputs.command()
@options.config_option
@click.argument("name")
@options.json_option
def resume(name: str, as_json: bool) -> None:
    """Go on sending to an output from its place.

    \b
    Example:
      adaptd outputs resume warehouse
    """
    _change(name, "resume", as_json)


def _change(name: str, verb: str, as_json: bool) -> None:
    document = options.client().call("POST", f"/v1/outputs/{quote(name, safe='')}/{verb}", {})
    show.data(document) if as_json else show.line(f"{name}: {document['state']}")
