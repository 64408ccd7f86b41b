"""The plugins that are installed, and a new one."""

from __future__ import annotations

from pathlib import Path

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup


@click.group(cls=NounGroup)
@options.config_option
def plugins() -> None:
    """Show, make and check plugins.

    \b
    Example:
      adaptd plugins new tickets
    """


@plugins.command("list")
@options.config_option
@options.json_option
def list_(as_json: bool) -> None:
    """List installed plugins and whether the configuration allows them; none is imported for it.

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


@plugins.command()
@click.argument("name")
@click.option("--dir", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where; adaptd-NAME if not given.")
def new(name: str, folder: Path | None) -> None:
    """Make the package of a new domain, with a test that passes.

    \b
    Example:
      adaptd plugins new tickets && pip install -e adaptd-tickets
    """
    from adaptd import scaffold

    folder = folder or Path(f"adaptd-{name}")
    scaffold.create(name, folder)
    show.line(str(folder))
    show.say(f"install it:   pip install -e {folder}\n"
             f"test it:      python -m pytest {folder}\n"
             f"check it:     adaptd plugins check {name}\n"
             f"then use it:  adaptd init store --domain {name}")


@plugins.command()
@options.config_option
@click.argument("name", required=False)
@options.json_option
def check(name: str | None, as_json: bool) -> int:
    """Run the contract suite over what an installed plugin gives: exit 1 if anything fails.

    NAME is a distribution or an entry point of it; without it, all that the configuration allows. The plugin is imported,
    allowed or not.

    \b
    Example:
      adaptd plugins check adaptd-tickets
    """
    from adaptd import config, contract

    names = [name] if name else list(config.load(options.given())[0].plugins.allow)
    found = [one for each in names for one in contract.check(each)]
    failed = sum(one.result == "failed" for one in found)
    if as_json:
        show.data({"checks": [vars(one) for one in found]})
    else:
        show.table(("kind", "name", "result", "why"), ((one.kind, one.name, one.result, one.message) for one in found))
    if not names:
        show.say("the configuration allows no plugin; name one: adaptd plugins check NAME")
    return 1 if failed else 0
