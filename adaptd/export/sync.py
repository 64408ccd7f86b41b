"""MLflow's registry brought up to what is live."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adaptd import offline, registry
from adaptd.config import Settings
from adaptd.errors import AdaptdError
from adaptd.export import mlflow
from adaptd.export.mlflow import State
from adaptd.export.version import Note, load
from adaptd.paths import Paths

Json = dict[str, Any]


def sync(settings: Settings, paths: Paths, domain: str, uri: str, name: str, *, every: bool, head: str | None,
         note: Note, tell: Callable[[int], None]) -> Json:
    """Enter the live version of a domain, or `every` one that can be restored; let `champion` name the live one.

    What the registry has of a version that a forget has changed since, or retired, is removed from it.

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
        versions = registry.versions(connection, domain_id)
        states = {one.number: mlflow.state(connection, one) for one in versions}
    wanted = [one.number for one in versions if one.number == live or (every and _whole(one))]
    entered, before = [], [one for one in known.entered() if one.number in states]
    there = {one.number: one.name for one in before if one.state == states[one.number]}
    for number in [one for one in wanted if one not in there]:
        tell(number)
        note(number, _place(uri, name))
        made = load(settings, paths, domain, number, head)
        with tempfile.TemporaryDirectory(prefix="adaptd-mlflow-") as temporary:
            mlflow.write(made.model, made.encoder, folder := Path(temporary) / "model")
            there[number] = known.register(made.version, folder, states[number])
        entered.append(number)
    known.point(there[live])
    stale = [one for one in before if one.number in entered or _forgets(one.state, states[one.number])]
    for one in stale:
        known.remove(one)
    return {"name": name, "entered": entered, "removed": [one.number for one in stale], "live": live, "champion": there[live]}


def _place(uri: str, name: str) -> str:
    """Say where a model is registered, for the history: a password in the address is left out.

    >>> _place("https://me:secret@mlflow.example:5000/x", "adaptd-text")
    'https://mlflow.example:5000/x adaptd-text'
    """
    return f"{re.sub(r'//[^/]*@', '//', uri)} {name}"


def _forgets(before: State, now: State) -> bool:
    return (before.forgotten, before.retired) != (now.forgotten, now.retired)


def _whole(version: registry.Version) -> bool:
    try:
        registry.check_restorable(version)
    except AdaptdError:
        return False
    return bool(version.files)
