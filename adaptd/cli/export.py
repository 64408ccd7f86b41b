"""`adaptd export`: a version as a model that answers without adaptd; the daemon may run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.cli.versions import NUMBER
from adaptd.errors import NotRunning, UnknownDomain
from adaptd.paths import Paths

FORMS = ("hf", "onnx", "mlflow")
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@options.config_option
@options.domain_option
@click.argument("number", type=NUMBER, metavar="N")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--format", "form", type=click.Choice(FORMS), default="hf", show_default=True,
              help="transformers, ONNX, or MLflow (python_function).")
@click.option("--head", metavar="NAME", help="The head; needed where the domain has several.")
@options.json_option
def export(domain: str | None, number: int, folder: Path, form: str, head: str | None, as_json: bool) -> None:
    """Write a version as a model that answers without adaptd.

    DIR holds the encoder, the remembered vectors with their labels (no texts), the ridge and what answers are pooled and
    calibrated by. Reads the store, whether its daemon runs or not.
    What is forgotten later is not forgotten in DIR; the certificate of a forget names it.

    \b
    Example:
      adaptd export 12 ./intents --format onnx
    """
    from rich.console import Console

    from adaptd import config
    from adaptd.export.version import export as write

    settings, paths = config.load(options.given())
    name = _served(domain, settings)
    with Console(stderr=True).status(f"exporting version {number}"):
        document = write(settings, paths, name, number, form, folder.absolute(), head, note=_note(name, paths))
    show.data(document) if as_json else _words(document)


@click.command("mlflow")
@options.config_option
@options.domain_option
@click.option("--uri", envvar="MLFLOW_TRACKING_URI", required=True, metavar="URI", show_envvar=True, help="The tracking server.")
@click.option("--name", metavar="NAME", help="The registered model; adaptd-DOMAIN if not given.")
@click.option("--all", "every", is_flag=True, help="Enter every version that can be restored, not only what is live.")
@click.option("--head", metavar="NAME", help="The head; needed where the domain has several.")
@options.json_option
def mlflow(domain: str | None, uri: str, name: str | None, every: bool, head: str | None, as_json: bool) -> None:
    """Bring MLflow's model registry up to what is live.

    Enters the live version where the registry lacks it, as an MLflow model with figures, parent, verdict and reason, and
    lets the alias `champion` name it, after a rollback too. What a forget has changed or retired since is entered anew or
    removed there. A second run changes nothing. Run it by a timer.

    \b
    Example:
      adaptd mlflow --uri http://127.0.0.1:5000
    """
    from rich.console import Console

    from adaptd import config
    from adaptd.export.sync import sync

    settings, paths = config.load(options.given())
    chosen = _served(domain, settings)
    with Console(stderr=True).status("looking at what the registry lacks") as status:
        document = sync(settings, paths, chosen, uri, name or f"adaptd-{chosen}", every=every, head=head,
                        note=_note(chosen, paths), tell=lambda number: status.update(f"entering version {number}"))
    if as_json:
        show.data(document)
    else:
        removed = f", removed {', '.join(map(str, document['removed']))}" if document["removed"] else ""
        show.line(f"{document['name']}: entered {', '.join(map(str, document['entered'])) or 'nothing'}{removed}; champion is"
                  f" version {document['live']} (MLflow's {document['champion']})")


def _note(domain: str, paths: Paths) -> Callable[[int, str], None]:
    """Return what notes an export: through the daemon where one runs, else in the stopped store."""
    def note(number: int, to: str) -> None:
        try:
            options.client().call("POST", f"/v1/{domain}/versions/{number}/exported", {"to": to})
        except NotRunning:
            from adaptd import offline

            offline.note_export(paths, domain, number, to, options.actor())

    return note


def _served(domain: str | None, settings: Any) -> str:
    name = options.chosen(domain)
    if name not in settings.served():
        raise UnknownDomain(f"the configuration has no domain {name!r}", hint=f"it has: {', '.join(settings.served())}")
    return name


def _words(document: Mapping[str, Any]) -> None:
    show.line(f"{document['folder']}: version {document['version']} as {document['format']}, {document['labels']} labels,"
              f" {document['memory']} remembered vectors, {document['bytes'] / 1e6:.1f} MB")
