"""The plugins that are installed; none is imported for it."""

from __future__ import annotations

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def plugins() -> None:
    """Show the installed plugins.

    \b
    Example:
      adaptd plugins list
    """


@plugins.command("list")
@options.config_option
@options.json_option
def list_(as_json: bool) -> None:
    """List installed plugins and whether the configuration allows them.

    \b
    Example:
      adaptd plugins list --json
    """
    from adaptd import config
    from adaptd.plugins import describe

    settings, _ = config.load(options.given())
    found = describe(settings.plugins.allow)
    if as_json:
        show.data({"plugins": found})
        return
    show.table(("plugin", "version", "allowed", "provides"), (
        (p["name"], p["version"], p["allowed"], ", ".join(p["provides"])) for p in found))
    if not found:
        show.say("no plugins are installed; the built-ins are always there")
