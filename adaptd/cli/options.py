"""The options that commands share, and what they lead to: paths, domain, the daemon's socket. No pydantic here."""

from __future__ import annotations

import getpass
import os
import tomllib
from typing import Any
from urllib.parse import quote

import click

from adaptd import clock
from adaptd.client import Client
from adaptd.errors import BadPayload
from adaptd.paths import Paths, locate

_CONFIG = "adaptd.config"


def moment(_: click.Context, param: click.Parameter, value: str | None) -> str | float | None:
    """Check a moment and leave it as it was written; a plain number stands for seconds since the epoch."""
    if value is None:
        return None
    try:
        given: str | float = float(value)
    except ValueError:
        given = value
    try:
        clock.moment(given, str(param.name))
    except BadPayload as error:
        raise click.BadParameter(f"{error.message}; give {error.hint}") from None
    return given


def _keep(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[_CONFIG] = value


config_option = click.option("--config", metavar="PATH", callback=_keep, expose_value=False,
                             help="The configuration file, or the folder it is in.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
domain_option = click.option("--domain", metavar="NAME", help="The domain; needed when there are several.")
reason_option = click.option("--reason", metavar="TEXT", default="", help="Why, for the history.")


def since(context: click.Context, param: click.Parameter, value: str) -> str | int | float | None:
    """Check a seq or a moment: digits alone are a seq."""
    return int(value) if value.isdecimal() and value.isascii() else moment(context, param, value)


def given() -> str | None:
    """Return what --config named."""
    found: str | None = click.get_current_context().meta.get(_CONFIG)
    return found


def paths() -> Paths:
    """Find the store."""
    return locate(given())


def client() -> Client:
    """Return the way to the store's daemon."""
    return Client(paths().socket, patience_s=0.0)  # a person sees "busy" at once


def chosen(domain: str | None) -> str:
    """Return the domain asked for, else the configured default, else the only one."""
    if domain is not None:
        return domain
    document = tomllib.loads(paths().config.read_text(encoding="utf-8"))
    default: Any = os.environ.get("ADAPTD_DOMAIN", document.get("domain"))
    configured = document.get("domains")
    names = list(configured) if isinstance(configured, dict) else []
    if isinstance(default, str):
        return default
    if len(names) > 1:
        raise click.UsageError(f"several domains: {', '.join(names)}; choose one with --domain, "
                               "or set domain in the configuration")
    return names[0] if names else "text"


def route(domain: str, verb: str) -> str:
    """Return the path of a domain's call.

    >>> route("a/b", "predict")
    '/v1/a%2Fb/predict'
    """
    return f"/v1/{quote(domain, safe='')}/{verb}"


def actor() -> str:
    """Return who runs this command."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # no entry in the password database
        return f"cli:uid {os.getuid()}"
