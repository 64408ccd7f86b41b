"""MLflow's registry brought up to what is live."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptd import offline, registry
from adaptd.config import Settings
from adaptd.errors import AdaptdError
from adaptd.export import mlflow
from adaptd.export.version import load
from adaptd.paths import Paths

Json = dict[str, Any]


def sync(settings: Settings, paths: Paths, domain: str, uri: str, name: str, *, every: bool, head: str | None,
         tell: Callable[[int], None]) -> Json:
    """Enter the live version of a domain, or `every` one that can be restored; let `champion` name the live one.

    Raises
    ------
    MissingExtra
        mlflow is not installed.
    CannotStart
        The server refused or could not be reached.
    """
    known = mlflow.Registry(uri, name)
    with offline.reading(paths, domain) as (connection, domain_id):
        live = registry.live(connection, domain_id).version
        wanted = [one.number for one in registry.versions(connection, domain_id) if one.number == live or (every and _whole(one))]
    entered, there = [], known.known()
    for number in [one for one in wanted if one not in there]:
        tell(number)
        made = load(settings, paths, domain, number, head)
        with tempfile.TemporaryDirectory(prefix="adaptd-mlflow-") as temporary:
            mlflow.write(made.model, made.encoder, folder := Path(temporary) / "model")
            there[number] = known.register(made.version, folder)
        entered.append(number)
    known.point(there[live])
    return {"name": name, "entered": entered, "live": live, "champion": there[live]}


def _whole(version: registry.Version) -> bool:
    try:
        registry.check_restorable(version)
    except AdaptdError:
        return False
    return bool(version.files)
