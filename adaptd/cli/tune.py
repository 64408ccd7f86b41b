"""`adaptd tune`: settings searched on the store's own labels, beside production; the daemon may run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.errors import UnknownDomain


@click.command()
@options.config_option
@options.domain_option
@click.option("--tries", type=click.IntRange(2, 128), default=16, show_default=True, help="How many settings are tried.")
@click.option("--head", metavar="NAME", help="Of a domain with several: the one that is looked at.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of what is drawn.")
@options.json_option
def tune(domain: str | None, tries: int, head: str | None, seed: int, as_json: bool) -> None:
    """Search settings of adaptation and retrieval on the store's own labels.

    Reads the store, whether its daemon runs or not, and changes nothing. What is better than the settings in force, by more than
    chance and the number of tries explain, is printed as lines for adaptd.toml.

    \b
    Example:
      adaptd tune --tries 8
    """
    from rich.console import Console
    from rich.progress import Progress

    from adaptd import config
    from adaptd.process import NICE
    from adaptd.tune import tune as search

    settings, paths = config.load(options.given())
    name = options.chosen(domain)
    if name not in settings.served():
        raise UnknownDomain(f"the configuration has no domain {name!r}", hint=f"it has: {', '.join(settings.served())}")
    _give_way(NICE)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tuning", total=None)
        document = search(paths, name, settings.served()[name], settings.plugins.allow, tries=tries, head=head, seed=seed,
                          advance=lambda done, total: bar.update(task, completed=done, total=total))
    show.data(document) if as_json else _words(document)


def _give_way(nice: int) -> None:
    """Run behind the daemon."""
    import os

    os.nice(nice)


def _words(document: Mapping[str, Any]) -> None:
    configured, best = document["configured"], document["best"]
    rows = [_row("in force", configured), *(_row(_settings(one["settings"]), one) for one in document["table"])]
    show.table(("settings", "a quarter", "half", "all rows", "cpu_s", "failed"), rows)
    show.line(f"{document['tries']} tries on {document['rows']} labels, {document['held_out']} of them held out")
    if "delta" not in best:
        show.line(best["why"])
        return
    show.line(f"the best, {_settings(best['settings'])}, beside those in force: {100 * best['delta']:+.2f} points on the held-out"
              f" rows ({best['won']} won, {best['lost']} lost), p times the tries {best['p']:.2g}: {best['why']}")
    if best["better"]:
        show.line(best["toml"])
    else:
        show.say("the settings in force stay")


def _row(name: str, one: Mapping[str, Any]) -> tuple[Any, ...]:
    shares = [show.percent(share) for share in one["accuracy"]]
    return (name, *shares, *[None] * (3 - len(shares)), one["cpu_s"], one["failed"])


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
