"""A store in one file, and back: through the daemon where one runs, else from the stopped store under its lock."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.errors import NotRunning

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@options.config_option
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--verify", is_flag=True, help="Write nothing: check FILE as a restore would.")
@options.json_option
def backup(file: Path, force: bool, verify: bool, as_json: bool) -> None:
    """Write the whole store into one file, verified.

    FILE ends in .tar, .tar.gz or .tgz. In it: the database with all events and the store's key, every version's
    files, the configuration; not the token, and no secret that the configuration only names. Works while the daemon
    serves, and on a stopped daemon's store.

    \b
    Example:
      adaptd backup /var/backups/store.tar.gz
    """
    document = _verified(file) if verify else _written(file.absolute(), force)
    _say(document, as_json, "sound" if verify else "written and verified")


@click.command()
@options.config_option
@click.argument("file", type=FILE)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@options.json_option
def restore(file: Path, folder: Path, as_json: bool) -> None:
    """Make a new store from a backup.

    DIR is new or empty. Nothing is left in it when FILE does not verify. A new token is made at the first start;
    bring the files that the configuration names (feeds, secrets) yourself.

    \b
    Example:
      adaptd restore /var/backups/store.tar.gz store && adaptd run --config store
    """
    from adaptd import backup

    _say(backup.restore(file, folder.absolute()), as_json, f"restored to {folder}")


def _written(file: Path, force: bool) -> Mapping[str, Any]:
    try:
        return options.client().call("POST", "/v1/backup", {"file": str(file), "force": force}, timeout_s=None)
    except NotRunning:
        from adaptd import offline

        return offline.back_up(options.paths(), file, options.actor(), force=force)


def _verified(file: Path) -> Mapping[str, Any]:
    from adaptd import backup

    with tempfile.TemporaryDirectory(prefix="adaptd-") as scratch:
        return backup.verify(file, Path(scratch))


def _say(document: Mapping[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        show.data(document)
    else:
        counts = ", ".join(f"{count} {what}" for what, count in document["counts"].items())
        show.line(f"{document['file']}: {words}: {counts}, up to seq {document['seq']}, {document['bytes']} bytes")
    if document["chain"] and document["chain"]["broken"]:
        show.say("warning: the journal in it is not what was written: adaptd verify")
    for name in document["unsound"]:
        show.say(f"warning: {name} is damaged or missing in the store itself, and not in the backup: adaptd doctor")
