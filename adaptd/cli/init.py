"""`adaptd init`: a folder with a commented configuration and a token, ready to run."""

from __future__ import annotations

from pathlib import Path

import click

from adaptd.cli import show
from adaptd.newstore import create
from adaptd.paths import CONFIG


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--domain", metavar="NAME", default="text", show_default=True,
              help="The domain; an installed plugin of that name is allowed and used.")
def init(folder: Path, domain: str) -> None:
    """Make a folder with a configuration, ready to run.

    The folder must be new or empty. Everything of the store will lie in it.

    \b
    Example:
      adaptd init store --domain tickets
    """
    plugin = create(folder, domain)
    if plugin:
        show.say(f"domain {domain!r} comes from the plugin {plugin}, which is allowed now")
    show.line(str(folder / CONFIG))
    show.say(f"run it:       adaptd run --config {folder}\n"
             f"then try it:  adaptd predict --config {folder} \"some text\"")
