"""The store's schema, and the way to another database; on a stopped store."""

from __future__ import annotations

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup
from adaptd.status import check_there


@click.group(cls=NounGroup)
@options.config_option
def db() -> None:
    """Look after the store's schema, and where it is.

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
@click.option("--to", "url", metavar="URL", required=True, help="postgresql://…, or sqlite:///FILE.")
@options.json_option
def copy(url: str, as_json: bool) -> None:
    """Copy a stopped store to another database, whole.

    To PostgreSQL, or from there to SQLite's file; the target is empty. Counts and the journal's chain are compared in
    the end. The store itself stays as it is: the configuration says which one is used.

    \b
    Example:
      adaptd db copy --to postgresql://adaptd@db.example/adaptd
    """
    from adaptd import offline, storecopy

    paths = options.paths()
    check_there(paths.store)
    with show.progress("copy", storecopy.total(paths.store)) as advance:
        done = offline.copy(paths, url, advance)
    if as_json:
        show.data(done)
        return
    show.line(f"copied: {sum(done['rows'].values())} rows, {done['files']} files;"
              f" head {done['chain']['entry']}:{done['chain']['hash']}")
    show.say("to use it: [store] url in the configuration (none: the file adaptd.db in the state folder)")


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
