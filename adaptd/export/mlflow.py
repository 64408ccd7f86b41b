"""A version as an MLflow model, and the registry kept in step with what is live."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptd.errors import CannotStart, MissingExtra
from adaptd.export import hf, pyfunc_model
from adaptd.export.modeling_adaptd import AdaptdForSequenceClassification
from adaptd.model.encoder import Transformers
from adaptd.registry import Version

CHAMPION = "champion"  # the alias of what is live
NUMBER = "adaptd.version"


def write(model: AdaptdForSequenceClassification, encoder: Transformers, folder: Path) -> None:
    """Write an MLflow model (flavour `python_function`) that takes texts and returns labels with confidences."""
    mlflow = _mlflow()
    with tempfile.TemporaryDirectory(prefix="adaptd-export-") as temporary:
        weights = Path(temporary) / "model"
        hf.write(model, encoder, weights)
        mlflow.pyfunc.save_model(path=str(folder), python_model=pyfunc_model.__file__, artifacts={"model": str(weights)},
                                 pip_requirements=["torch", "transformers"], metadata=dict(model.config.made_of))


class Registry:
    """One registered model of an MLflow tracking server."""

    def __init__(self, uri: str, name: str) -> None:
        mlflow = _mlflow()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self.name = name
        self._client = mlflow.MlflowClient()
        self._unreachable = mlflow.exceptions.MlflowException

    def known(self) -> dict[int, str]:
        """Return adaptd's version number of every registered version, with MLflow's own."""
        found = self._client.search_model_versions(f"name = '{self.name}'")
        return {int(one.tags[NUMBER]): str(one.version) for one in found if NUMBER in one.tags}

    def register(self, version: Version, folder: Path) -> str:
        """Enter a version with its exported model; return MLflow's number.

        Raises
        ------
        CannotStart
            The server refused or could not be reached.
        """
        mlflow = _mlflow()
        try:
            self._create()
            with mlflow.start_run(run_name=f"{self.name} {version.number}") as run:
                mlflow.log_artifacts(str(folder), "model")
                mlflow.log_metrics(_figures(version))
                source = f"{run.info.artifact_uri}/model"
                made = self._client.create_model_version(self.name, source, run.info.run_id, tags=_tags(version),
                                                         description=version.reason)
        except self._unreachable as error:
            raise CannotStart(f"MLflow: {error}", field="uri", hint="mlflow server must be reachable at that address") from None
        return str(made.version)

    def point(self, number: str) -> None:
        """Let the alias `champion` name a version."""
        self._client.set_registered_model_alias(self.name, CHAMPION, number)

    def _create(self) -> None:
        if not self._client.search_registered_models(f"name = '{self.name}'"):
            self._client.create_registered_model(self.name, description="kept in step by adaptd")


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
