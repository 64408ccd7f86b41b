"""A version as an MLflow model, and the registry kept in step with what is live."""

from __future__ import annotations

import hashlib
import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from adaptd import tables as t
from adaptd.errors import CannotStart, MissingExtra
from adaptd.export import hf, pyfunc_model
from adaptd.export.modeling_adaptd import AdaptdForSequenceClassification
from adaptd.model.encoder import Transformers
from adaptd.records import canonical
from adaptd.registry import Version

CHAMPION = "champion"  # the alias of what is live
NUMBER = "adaptd.version"


@dataclass(frozen=True, kw_only=True)
class State:
    """What a version was when it was entered, as tags: a forget changes it under the same number."""

    files: str  # a digest over its files
    forgotten: str  # events of its time that have been forgotten
    retired: str


@dataclass(frozen=True, kw_only=True)
class Entered:
    """A version as the registry has it."""

    number: int
    name: str  # MLflow's number
    run: str
    state: State


def state(connection: Connection, version: Version) -> State:
    """Return what a version is now."""
    gone = select(func.count()).select_from(t.event).where(
        t.event.c.domain == version.domain, t.event.c.source == t.FORGOTTEN, t.event.c.seq <= version.seq)
    return State(files=hashlib.sha256(canonical(version.files).encode()).hexdigest()[:16],
                 forgotten=str(connection.scalar(gone)), retired=str("retired" in version.metrics).lower())


def write(model: AdaptdForSequenceClassification, encoder: Transformers, folder: Path) -> None:
    """Write an MLflow model (flavour `python_function`) that takes texts and returns labels with confidences."""
    mlflow = _mlflow()
    with tempfile.TemporaryDirectory(prefix="adaptd-export-") as temporary:
        weights = Path(temporary) / "model"
        hf.write(model, encoder, weights)
        mlflow.pyfunc.save_model(path=str(folder), python_model=pyfunc_model.__file__, artifacts={"model": str(weights)},
                                 pip_requirements=["torch", "transformers"], metadata=dict(model.config.made_of))


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except _mlflow().exceptions.MlflowException as error:
        raise CannotStart(f"MLflow: {error}", field="uri", hint="mlflow server must be reachable at that address") from None


class Registry:
    """One registered model of an MLflow tracking server.

    Raises
    ------
    CannotStart
        The server refused or could not be reached, at any call.
    """

    @_asking()
    def __init__(self, uri: str, name: str) -> None:
        mlflow = _mlflow()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.name = name
        self._client = mlflow.MlflowClient()

    @_asking()
    def entered(self) -> list[Entered]:
        """Return what the registry has."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return [Entered(number=int(one.tags[NUMBER]), name=str(one.version), run=one.run_id, state=_state(one.tags))
                for one in found if NUMBER in one.tags]

    @_asking()
    def register(self, version: Version, folder: Path, state: State) -> str:
        """Enter a version with its exported model; return MLflow's number."""
        mlflow = _mlflow()
        self._create()
        with mlflow.start_run(run_name=f"{self.name} {version.number}") as run:
            mlflow.log_artifacts(str(folder), "model")
            mlflow.log_metrics(_figures(version))
            source = f"{run.info.artifact_uri}/model"
            made = self._client.create_model_version(self.name, source, run.info.run_id, tags=_tags(version) | _names(state),
                                                     description=version.reason)
        return str(made.version)

    @_asking()
    def point(self, number: str) -> None:
        """Let the alias `champion` name a version."""
        self._client.set_registered_model_alias(self.name, CHAMPION, number)

    @_asking()
    def remove(self, one: Entered) -> None:
        """Remove a version and its run; the files go with MLflow's own `mlflow gc`."""
        self._client.delete_model_version(self.name, one.name)
        self._client.delete_run(one.run)

    def _create(self) -> None:
        if not self._client.search_registered_models(f"name = '{self.name}'"):
            self._client.create_registered_model(self.name, description="kept in step by adaptd")


def _names(state: State) -> dict[str, str]:
    return {f"adaptd.{name}": value for name, value in asdict(state).items()}


def _state(tags: Mapping[str, str]) -> State:
    return State(**{name: tags.get(f"adaptd.{name}", "") for name in State.__dataclass_fields__})


def _tags(version: Version) -> dict[str, str]:
    verdict = (version.verdict or {}).get("decision", "")
    told: Mapping[str, Any] = {NUMBER: version.number, "adaptd.parent": version.parent, "adaptd.seq": version.seq,
                               "adaptd.kind": version.kind, "adaptd.encoder": version.encoder, "adaptd.verdict": verdict,
                               "adaptd.actor": version.actor}
    return {key: str(value) for key, value in told.items() if value not in (None, "")}


def _figures(version: Version) -> dict[str, float]:
    wanted = ("prequential", "labels", "memory")
    return {key: float(version.metrics[key]) for key in wanted if version.metrics.get(key) is not None}


def _mlflow() -> Any:
    try:
        return importlib.import_module("mlflow")
    except ImportError:
        raise MissingExtra("mlflow is not installed", hint="pip install 'adaptd[mlflow]'") from None
