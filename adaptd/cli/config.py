"""The configuration: what is in force, whether it is valid, where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from adaptd.cli import options, show
from adaptd.cli.group import NounGroup

if TYPE_CHECKING:
    from pathlib import Path

    from adaptd.config import Settings


@click.group(cls=NounGroup)
@options.config_option
def config() -> None:
    """Show and check the configuration.

    \b
    Example:
      adaptd config check --config store
    """


@config.command("show")
@options.config_option
@options.json_option
def show_(as_json: bool) -> None:
    """Show every setting in force: defaults, file and environment, merged; secrets are masked.

    \b
    Example:
      adaptd config show
    """
    from adaptd import config as configuration
    from adaptd.tomlfile import secrets

    settings, paths = configuration.load(options.given())
    document = _masked(settings.model_dump(mode="json"), secrets(paths.config))
    if as_json:
        show.data(document)
        return
    for name, value in _flat(document):
        show.line(f"{name} = {_toml(value)}")


@config.command()
@options.config_option
@options.json_option
def check(as_json: bool) -> None:
    """Check the configuration as `adaptd run` does; exit code 78 when it is not valid.

    What a valid one names is looked at too: secrets that others can read, encoders that are not there, a port that is taken.

    \b
    Example:
      adaptd config check --config /etc/adaptd
    """
    from adaptd import config as configuration
    from adaptd import doctor, tls

    settings, paths = configuration.load(options.given())
    tls.context(settings.http, paths.config.parent)
    _check_names(settings, paths.config.parent)
    found = list(doctor.around(settings, paths, running=doctor.is_running(paths)))
    if as_json:
        show.data({"valid": True, "path": str(paths.config), "findings": [one.body() for one in found]})
    else:
        show.line(f"{paths.config}: valid")
    for one in found:
        show.say(f"{one.code}: {one.message}\nhint: {one.hint}")


@config.command()
@options.config_option
@options.json_option
def path(as_json: bool) -> None:
    """Show which file is read, and where the store is.

    \b
    Example:
      adaptd config path
    """
    found = options.paths()
    if as_json:
        show.data({"config": str(found.config), "state": str(found.state), "socket": str(found.socket)})
    else:
        show.line(str(found.config))


def _check_names(settings: Settings, folder: Path) -> None:
    """Refuse domains, feeds, outputs, gates and alert sinks that no allowed plugin gives, and options they do not take."""
    from adaptd import alerts, feeds, outputs, plugins

    manager = plugins.load("adaptd", settings.plugins.allow)
    domains, kinds, output_kinds, gates, sinks = (plugins.collect(manager, f"register_{what}")
                                                  for what in ("domains", "feeds", "outputs", "gates", "alert_sinks"))
    for name, domain in settings.served().items():
        kind = domain.kind or (name if name in domains else "text")
        cls: type[Any] = plugins.pick(domains, kind, f"domains.{name}.kind")
        plugins.build(cls, domain.options, f"domains.{name}.options")
        gate: type[Any] = plugins.pick(gates, domain.gate.kind, f"domains.{name}.gate.kind")
        plugins.build(gate, domain.gate.options, f"domains.{name}.gate.options")
    for name, feed in settings.feeds.items():
        feeds.build(kinds, name, feed, folder)
    for name, output in settings.outputs.items():
        outputs.build(output_kinds, name, output, folder)
    for name, one in settings.alerts.items():
        alerts.build(sinks, name, one)


def _masked(value: Any, secrets: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _masked(inner, secrets) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, secrets) for inner in value]
    return "***" if isinstance(value, str) and value in secrets else value


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and values."""
    for name, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _toml(value: Any) -> str:
    import json

    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
