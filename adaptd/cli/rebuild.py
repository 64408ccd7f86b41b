"""`adaptd rebuild`: make a version again from the journal, beside the store; the daemon may run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.cli.versions import NUMBER
from adaptd.errors import UnknownDomain


@click.command()
@options.config_option
@options.domain_option
@click.argument("number", type=NUMBER, metavar="N")
@options.json_option
def rebuild(domain: str | None, number: int, as_json: bool) -> int:
    """Make a version again from the journal, and say whether it matches.

    Reads the store, whether its daemon runs or not, and changes nothing. An adapter is trained again, with the settings it
    was made with; solved heads are solved again. Exit code 1 when the outcome differs from what is stored.

    \b
    Example:
      adaptd rebuild 9
    """
    from rich.console import Console

    from adaptd import config
    from adaptd.rebuild import rebuild as make

    settings, paths = config.load(options.given())
    name = options.chosen(domain)
    if name not in settings.served():
        raise UnknownDomain(f"the configuration has no domain {name!r}", hint=f"it has: {', '.join(settings.served())}")
    with Console(stderr=True).status(f"making version {number} again; an adaptation takes about a minute"):
        document = make(paths, name, number, settings.served()[name], settings.plugins.allow)
    show.data(document) if as_json else _words(document)
    return 0 if document["verdict"] == "match" else 1


def _words(document: Mapping[str, Any]) -> None:
    show.line(f"{document['verdict']}: version {document['version']} ({document['kind']})")
    for name, found in document["files"].items():
        deviation = f", largest deviation {found['deviation']:.2g}" if found["deviation"] else ""
        what = f" in {', '.join(found['what'])}" if found["what"] else ""
        trained = f" (trained as version {found['trained_as']})" if found.get("trained_as", document["version"]) != \
            document["version"] else ""
        show.line(f"  {name}: {found['verdict']}{what}{deviation}{trained}")
    for key, value in document["set_otherwise_now"].items():
        show.say(f"made with adapt.{key} = {value['then']!r}, as here again; the configuration says {value['now']!r} now")
    for package, value in document["other_software"].items():
        show.say(f"made by {package} {value['then']}, made again by {value['now']}: last bits may differ")
    for note in document["notes"]:
        show.say(note)
