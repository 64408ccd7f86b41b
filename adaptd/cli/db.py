"""The store's schema, on a stopped store."""

from __future__ import annotations

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def db() -> None:
    """Look after the store's schema.

    \b
    Example:
      adaptd db upgrade
    """


@db.command()
@options.config_option
@options.json_option
def current(as_json: bool) -> None:
    """Show the store's schema revision and the one that this adaptd wants.

    \b
    Example:
      adaptd db current
    """
    from adaptd import offline

    found, wanted = offline.revisions(options.paths())
    if as_json:
        show.data({"current": found, "wanted": wanted})
    else:
        show.line(f"{found}" + ("" if found == wanted else f" (this adaptd wants {wanted}; adaptd db upgrade)"))


@db.command()
@options.config_option
@options.json_option
def upgrade(as_json: bool) -> None:
    """Bring the store's schema to the one that this adaptd wants.

    \b
    Example:
      adaptd db upgrade --config store
    """
    from adaptd import offline

    before, after = offline.upgrade(options.paths())
    if as_json:
        show.data({"before": before, "after": after})
    else:
        show.line(f"{after}" if before == after else f"{before} -> {after}")
