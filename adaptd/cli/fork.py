"""`adaptd fork`: what would have happened, learned again from the journal beside production; the daemon may run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.errors import UnknownDomain

SURE = 0.05


@click.command()
@options.config_option
@options.domain_option
@click.option("--at", callback=options.moment, metavar="TIME", required=True,
              help="From this moment on: ISO 8601 with a zone, or seconds since the epoch.")
@click.option("--without-source", "without", multiple=True, metavar="S",
              help="Leave out what this source has taught since; may be repeated.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Another value of a [learn] or [memory] setting; may be repeated.")
@options.json_option
def fork(domain: str | None, at: str | float, without: tuple[str, ...], assignments: tuple[str, ...], as_json: bool) -> None:
    """Learn the journal again from a moment on, as configured and otherwise, and compare.

    Reads the store, whether its daemon runs or not, and changes nothing. Every label since judges what either would have
    answered before it is learned. The regret is how many errors the fork would have spared so far. Without
    --without-source and --set it compares the fast path alone with what was answered at the time.

    \b
    Example:
      adaptd fork --at 2026-05-01T00:00:00Z --without-source intern
      adaptd fork --at 2026-05-01T00:00:00Z --set learn.features=2048
    """
    from rich.console import Console
    from rich.progress import Progress

    from adaptd import clock, config
    from adaptd.fork import Change, changed
    from adaptd.fork import fork as learn

    settings, paths = config.load(options.given())
    name = options.chosen(domain)
    if name not in settings.served():
        raise UnknownDomain(f"the configuration has no domain {name!r}", hint=f"it has: {', '.join(settings.served())}")
    now = settings.served()[name]
    change = Change(settings=changed(now, assignments), without=without)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("learning again", total=None)
        document = learn(paths, name, clock.moment(at, "at"), now, change, settings.plugins.allow,
                         lambda done, total: bar.update(task, completed=done, total=total))
    document["set"] = list(assignments)
    show.data(document) if as_json else _words(document)


def _words(document: Mapping[str, Any]) -> None:
    rows = [(time.strftime("%Y-%m-%d %H:%M", time.localtime(part["since"])), part["judged"], _share(part["answered"]),
             _share(part["now"]), _share(part["fork"]), part["regret"], _bar(part["regret"], document)) for part in
            document["over_time"]]
    show.table(("since", "judged", "answered", "configured", "fork", "regret", ""), rows)
    show.line(f"{document['judged']} labels judged both: as configured {_share(document['now'])} right, the fork"
              f" {_share(document['fork'])}; of {document['answered_of']} answers that were given"
              f" {_share(document['answered'])} were")
    show.line(_sentence(document))


def _sentence(document: Mapping[str, Any]) -> str:
    if not document["set"] and not document["without_sources"]:
        return "nothing is otherwise in this fork: --without-source and --set say what would be"
    won, lost = document["won"], document["lost"]
    what = f"the fork is right {won} times where the configured one is wrong, and wrong {lost} times where that is right"
    if document["p"] > SURE:
        return f"{what}: no difference that chance does not explain (p = {document['p']:.2g})"
    return f"{what}: the fork is {'better' if won > lost else 'worse'} (p = {document['p']:.2g})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _bar(regret: int, document: Mapping[str, Any]) -> str:
    most = max(abs(part["regret"]) for part in document["over_time"]) or 1
    length = round(20 * abs(regret) / most)
    return ("+" if regret > 0 else "-") * length
