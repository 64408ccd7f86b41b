"""Which version is exported, and in which form."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adaptd import offline, plugins, registry
from adaptd.asof import AsOf
from adaptd.config import Settings
from adaptd.errors import BadConfig, Conflict
from adaptd.export import hf
from adaptd.export.modeling_adaptd import AdaptdForSequenceClassification
from adaptd.heads import Classify
from adaptd.interfaces import Encoder
from adaptd.model.encoder import Transformers
from adaptd.paths import Paths
from adaptd.registry import Version

FORMATS = MappingProxyType({"hf": "adaptd.export.hf", "onnx": "adaptd.export.onnx", "mlflow": "adaptd.export.mlflow"})
Json = dict[str, Any]
Note = Callable[[int, str], None]  # writes into the store's history that a version goes to a place


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A version, the model that answers as it does, and its encoder."""

    version: Version
    model: AdaptdForSequenceClassification
    encoder: Transformers


def export(settings: Settings, paths: Paths, domain: str, number: int, form: str, folder: Path, head: str | None, *,
           note: Note) -> Json:
    """Write a version of a domain into a new folder, and note that; return what it is made of.

    Raises
    ------
    NotFound
        There is no such version.
    Conflict
        It has learned nothing, its encoder is another one, its upper blocks were tuned, or the folder is not empty.
    MissingExtra
        The form needs a package that is not installed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", field="folder", hint="name a new folder")
    made = load(settings, paths, domain, number, head)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(mode=0o700, parents=True)  # vectors of texts are in it
        importlib.import_module(FORMATS[form]).write(made.model, made.encoder, temporary)
        note(made.version.number, str(folder))
        temporary.replace(folder)  # an empty folder gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"version": number, "format": form, "folder": str(folder), "labels": made.model.config.num_labels,
            "memory": len(made.model.keys), "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())}


def load(settings: Settings, paths: Paths, domain: str, number: int, head: str | None) -> Exported:
    """Make the model that answers as a version does."""
    served = settings.served()[domain]
    with offline.reading(paths, domain) as (connection, domain_id):
        version = registry.version(connection, number, domain_id)
        past = AsOf.of(connection, paths, version, settings.plugins.allow)
        state = past.state(served)
    if not any(head.means.counts.sum() for head in state.heads.values()):
        raise Conflict(f"version {version.number} has learned nothing", field="version", hint="name a later version")
    name = _head(head, list(state.heads))
    chosen = state.heads[name]
    if not isinstance(chosen.options.kind, Classify) or chosen.options.generates:
        raise Conflict(f"the head {name!r} does not answer with one label", field="head",
                       hint="only heads that classify can be exported")
    if chosen.adapter.upper is not None:
        raise Conflict(f"version {version.number} answers with upper blocks that were tuned, which no form of export has",
                       field="version", hint="name a version from before they were consolidated: adaptd versions")
    if not past.solved or not chosen.is_solved():
        chosen.solve()
    chosen.index()
    encoder = _encoder(settings, served.encoder, version)
    made_of = {"domain": domain, "head": name, "version": version.number, "seq": version.seq}
    return Exported(version=version, model=hf.build(chosen, encoder, made_of), encoder=encoder)


def _head(wanted: str | None, known: list[str]) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted not in known:
        raise BadConfig(f"this domain has the heads {', '.join(known)}", field="head", hint="name one with --head")
    return wanted


def _encoder(settings: Settings, name: str, version: Version) -> Transformers:
    """Load the encoder that a version was made with."""
    kinds = plugins.collect(plugins.load("adaptd.learner", settings.plugins.allow), "register_encoders")
    configured = settings.encoders[name]
    encoder: Encoder = plugins.build(plugins.pick(kinds, configured.kind, f"encoders.{name}.kind"), configured.options,
                            f"encoders.{name}.options")
    if not isinstance(encoder, Transformers):
        raise Conflict(f"the encoder {name!r} is no transformers model of text", field="encoder",
                       hint="only those can be exported")
    encoder.load()
    if encoder.digest != version.encoder:
        raise Conflict(f"version {version.number} was made with another encoder than the configured one", field="version",
                       hint="name a version of this encoder")
    return encoder
