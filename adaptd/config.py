"""The configuration: one TOML file, `ADAPTD_*` overrides, unknown keys refused with the nearest known one.

`ADAPTD_HTTP__PORT=8080` overrides `[http] port`. Secrets are given by reference: `{"$env" = "NAME"}` or
`{"$file" = "path"}`. Paths are relative to the folder of the file. Every setting, its default and its meaning
stand in `configs/adaptd.toml`; a test keeps that file equal to the defaults here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from adaptd.errors import BadConfig
from adaptd.paths import Paths, locate
from adaptd.tomlfile import line_of, resolved, stands

DEFAULT = "default"  # the encoder of a domain that names none
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A table of the file: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Store(Section):
    """Where events, labels and versions are kept; without a URL in the state folder, in SQLite."""

    url: str | None = None  # `adaptd.paths` checks and reads it


class Http(Section):
    """Where the daemon listens. The unix socket is always there."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    tcp: bool = True
    certfile: str | None = None
    keyfile: str | None = None
    cleartext: bool = False


class Limits(Section):
    """What one request and one client may be, and how much may wait."""

    items: Positive = 1000
    bytes: Positive = 8 * 1024 * 1024
    characters: Positive = 100_000
    future_s: Seconds = 300.0
    connections: Positive = 512
    header_s: Seconds = 10.0
    body_s: Seconds = 60.0
    rate: Annotated[float, Field(ge=0)] = 0.0
    queue: Positive = 10_000
    free_mb: Count = 256
    shutdown_s: Seconds = 30.0


class Blobs(Section):
    """Images and sounds that come in: how large one may be, and the folders that paths may name."""

    bytes: Positive = 8 * 1024 * 1024
    folders: list[str] = Field(default_factory=list)


class EncoderSettings(Section):
    """A frozen encoder; several domains share one."""

    kind: str = "transformers"
    options: dict[str, Any] = Field(default_factory=dict)


class Learn(Section):
    """The fast path."""

    features: Positive = 4096
    block: Positive = 256
    solve_after_s: Seconds = 1.0
    checkpoint_labels: Positive = 5000
    abstain_error: Rate = 0.0
    out_of_scope: Rate = 0.0
    seed: int = 1


class Memory(Section):
    """What is retrieved, and what stays retrievable when there is too much. 0 = as many as come."""

    neighbours: Positive = 64
    capacity: Count = 200_000
    per_class: Count = 0
    policy: str = "balanced"
    options: dict[str, Any] = Field(default_factory=dict)


class Holdout(Section):
    """Labelled events kept for judging: a share, once their class has enough learned examples."""

    share: Share = 0.15
    after: Positive = 20


class Quarantine(Section):
    """When a source that contradicts the others is held by itself."""

    enabled: bool = True
    tolerance: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    run_length: Annotated[int, Field(ge=100)] = 1_000_000
    trusted: list[str] = Field(default_factory=list)


class Drift(Section):
    """Whether remembered examples follow a label that changes its meaning."""

    enabled: bool = True


class Weak(Section):
    """Whose labels wait until a trial shows that they help, and when one starts."""

    sources: list[str] = Field(default_factory=list)
    every_labels: Count = 500
    pseudo: bool = False
    pseudo_error: Annotated[float, Field(gt=0, lt=0.5)] = 0.2


class Adapt(Section):
    """The slow path: when an adaptation starts and what bounds it."""

    enabled: bool = True
    strategy: str = "replay"
    options: dict[str, Any] = Field(default_factory=dict)
    every_labels: Annotated[int, Field(ge=0)] = 1000
    on_drift: bool = False
    worth: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[str | None, Field(pattern=r"^\s*(\d+\s*[smhd]|\S+(\s+\S+){4})\s*$")] = None
    min_labels: Positive = 200
    time_limit_s: Seconds = 1800.0
    memory_limit_mb: Count = 8192
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = 1
    seed: int = 0
    log: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)


class Consolidate(Section):
    """When a copy of the encoder's upper blocks is tuned, and how."""

    every_labels: Count = 0
    options: dict[str, Any] = Field(default_factory=dict)


class GateSettings(Section):
    """Which gate judges candidates."""

    kind: str = "not-worse"
    options: dict[str, Any] = Field(default_factory=dict)


class Probation(Section):
    """How long the old champion shadows a promoted version, and what brings it back."""

    labels: Annotated[int, Field(ge=0)] = 1000
    days: Annotated[float, Field(gt=0)] = 7.0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05


class Redact(Section):
    """Personal data that is taken out at the door; without entities none is looked for."""

    entities: list[Literal["email", "phone", "card", "iban", "id", "ip"]] = Field(default_factory=list)
    action: Literal["replace", "hash", "reject"] = "replace"
    regions: list[Annotated[str, Field(pattern=r"^[A-Z]{2}$")]] = Field(default_factory=lambda: ["US", "GB", "CN"])


class RuleSettings(Section):
    """What a domain must answer, or never, when an expression holds."""

    when: str = "true"
    must: str | None = None
    never: list[str] = Field(default_factory=list)
    head: str | None = None


class VocabularySettings(Section):
    """What is known of labels beside their examples: names, what is broader, what is related."""

    file: str | None = None
    head: str | None = None
    sure: Annotated[float, Field(gt=0, le=1)] = 0.5
    closed: bool = False


class Documents(Section):
    """A folder of documents that is searched with every event, and cited."""

    folder: str | None = None
    count: Positive = 3
    miss: Annotated[float, Field(gt=0, lt=1)] = 0.25
    passages: Positive = 20_000


class DomainSettings(Section):
    """One prediction problem; `kind` names the domain class, by default the one with the domain's own name."""

    kind: str | None = None
    encoder: str = DEFAULT
    options: dict[str, Any] = Field(default_factory=dict)
    rules: Annotated[dict[Name, RuleSettings], Len(0, 500)] = Field(default_factory=dict)
    learn: Learn = Learn()
    memory: Memory = Memory()
    holdout: Holdout = Holdout()
    quarantine: Quarantine = Quarantine()
    drift: Drift = Drift()
    weak: Weak = Weak()
    adapt: Adapt = Adapt()
    consolidate: Consolidate = Consolidate()
    gate: GateSettings = GateSettings()
    probation: Probation = Probation()
    redact: Redact = Redact()
    vocabulary: VocabularySettings = VocabularySettings()
    documents: Documents = Documents()


class FeedSettings(Section):
    """A stream to follow into one domain."""

    kind: str
    domain: str
    source: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    fields: dict[str, str] = Field(default_factory=dict)


class OutputSettings(Section):
    """What is sent where; of one domain, or of all."""

    kind: str
    what: Annotated[list[Literal["predictions", "verdicts", "alerts", "review"]], Len(1)] = ["predictions"]
    domain: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class ObserverSettings(Section):
    """What watches the newest events of a domain."""

    kind: str
    domain: str
    newest: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    options: dict[str, Any] = Field(default_factory=dict)


class TraceSettings(Section):
    """Where traces go, and of how many requests."""

    endpoint: Annotated[str, Field(pattern=r"^(https?://.+)?$")] = ""
    share: Share = 1.0
    headers: dict[str, str] = Field(default_factory=dict)


class AlertSettings(Section):
    """Where alerts go, which ones, and how often one is told again while it lasts."""

    kind: str
    on: list[Literal["problem", "resolved", "demote", "promote", "reject", "undecided"]] = ["problem", "resolved"]
    repeat_s: Seconds = 14_400.0
    options: dict[str, Any] = Field(default_factory=dict)


class Versions(Section):
    """How long versions keep their files that are neither live, an ancestor of it, nor a snapshot."""

    keep: Positive = 50
    keep_days: Annotated[float, Field(gt=0)] = 90.0


class PluginSettings(Section):
    """Distributions that may be loaded. Nothing else is imported."""

    allow: list[str] = Field(default_factory=list)


class Log(Section):
    """How the daemon logs, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(BaseSettings):
    """The whole configuration, merged once at load."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="ADAPTD_", env_nested_delimiter="__")

    domain: str | None = None  # the default for commands, where there are several
    state: str = "."
    store: Store = Store()
    http: Http = Http()
    limits: Limits = Limits()
    blobs: Blobs = Blobs()
    log: Log = Log()
    versions: Versions = Versions()
    traces: TraceSettings = TraceSettings()
    plugins: PluginSettings = PluginSettings()
    encoders: dict[Name, EncoderSettings] = Field(default_factory=lambda: {DEFAULT: EncoderSettings()})
    domains: Annotated[dict[Name, DomainSettings], Len(0, 500)] = Field(default_factory=dict)
    feeds: dict[Name, FeedSettings] = Field(default_factory=dict)
    outputs: dict[Name, OutputSettings] = Field(default_factory=dict)
    alerts: dict[Name, AlertSettings] = Field(default_factory=dict)
    observers: dict[Name, ObserverSettings] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
                                   env_settings: PydanticBaseSettingsSource,
                                   dotenv_settings: PydanticBaseSettingsSource,
                                   file_secret_settings: PydanticBaseSettingsSource,
                                   ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; nothing else."""
        return env_settings, init_settings

    def served(self) -> dict[str, DomainSettings]:
        """Return every domain of the daemon: the configured ones, the default first, and `text`.

        `text` needs no table; but where every domain has an encoder of its own, the default one need not be there.
        """
        first = {self.domain: self.domains[self.domain]} if self.domain in self.domains else {}
        others = {**first, **self.domains}
        return others if "text" in others or not _serves_text(d.encoder for d in others.values()) else {
            **others, "text": DomainSettings()}

    def digest(self) -> str:
        """Return the sha256 of the effective configuration, as stored with every version."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json", exclude={"store"}), sort_keys=True).encode()).hexdigest()


# top-level tables that are defaults for every domain
SHARED = ("learn", "memory", "holdout", "quarantine", "drift", "weak", "adapt", "consolidate", "gate", "probation", "redact")


def load(config: str | os.PathLike[str] | None = None) -> tuple[Settings, Paths]:
    """Read and check the configuration.

    Raises
    ------
    BadConfig
        With file and line, the key, what is expected and the fix.
    """
    paths = locate(config)
    text = paths.config.read_text(encoding="utf-8")
    raw = resolved(tomllib.loads(text), paths.config.parent)
    for table in ("domains", "encoders"):
        if not isinstance(raw.get(table, {}), dict):
            raise BadConfig(f"{paths.config}:{line_of(text, [table])}: {table} must be a table", field=table,
                            hint=f"write [{table}.NAME]")
    shared = {key: raw.pop(key) for key in SHARED if key in raw}
    raw["domains"] = {name: _merge(shared, body) for name, body in raw.get("domains", {}).items()}
    if _serves_text(body.get("encoder", DEFAULT) if isinstance(body, dict) else DEFAULT for body in raw["domains"].values()):
        raw["domains"].setdefault("text", shared)
    raw["encoders"] = {DEFAULT: {}, **raw.get("encoders", {})}
    if unknown := next((key for key in raw if key not in Settings.model_fields), None):  # some mean something to BaseSettings
        raise _unknown(f"{paths.config}:{line_of(text, [unknown])}", [unknown], [unknown])
    _warn_unknown_environment()
    try:
        settings = Settings(**raw)
    except ValidationError as error:
        raise _explain(error, paths.config, text) from None
    except SettingsError as error:  # an environment variable whose value is to be JSON and is not
        raise BadConfig(f"environment: {error}", hint="set single keys: ADAPTD_HTTP__PORT=8080") from None
    _check_references(settings, paths.config, text)
    paths.store  # noqa: B018 (a URL that is none is told here)
    return settings, paths


def _serves_text(encoders: Iterable[str]) -> bool:
    """Say whether `text` is there without a table of its own: not where no domain uses the default encoder."""
    named = list(encoders)
    return not named or DEFAULT in named


def _merge(base: Mapping[str, Any], over: Any) -> Any:
    if not isinstance(over, Mapping):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(base[key], value) if isinstance(base.get(key), Mapping) else value
    return merged


def _explain(error: ValidationError, file: Path, text: str) -> BadConfig:
    """Turn pydantic's first complaint into file:line, key, expectation and cure."""
    first = error.errors()[0]
    where = full = [str(part) for part in first["loc"] if part != "[key]"]
    if where[:1] == ["domains"] and len(where) > 2 and where[2] in SHARED and not stands(tomllib.loads(text), where):
        where = where[2:]  # it came from the tables for every domain
    at, dotted = f"{file}:{line_of(text, where)}", ".".join(where)
    if first["type"] == "extra_forbidden":
        return _unknown(at, where, full)
    given = "" if isinstance(first["input"], dict) else f" (given {first['input']!r})"
    return BadConfig(f"{at}: {dotted}: {first['msg']}{given}", field=dotted,
                     hint="configs/adaptd.toml shows every setting with its default")


def _unknown(at: str, where: list[str], full: list[str]) -> BadConfig:
    known, dotted = _known(full[:-1]), ".".join(where)
    near = difflib.get_close_matches(where[-1], known, 1)
    hint = (f"did you mean {near[0]!r}? " if near else "") + f"known here: {', '.join(known)}"
    return BadConfig(f"{at}: unknown key {dotted!r}", field=dotted, hint=hint)


def _known(where: list[str]) -> list[str]:
    """List the keys that are allowed at a place of the file."""
    model: Any = Settings
    for part in where:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:  # a name inside a table of named sections: step into its values
            continue
        inner = [a for a in getattr(field.annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, Section)]
        model = inner[0] if inner else field.annotation
    return sorted(getattr(model, "model_fields", {})) + (list(SHARED) if model is Settings else [])


def _check_references(settings: Settings, file: Path, text: str) -> None:
    """Refuse names that lead nowhere."""
    def at(*where: str) -> str:
        return f"{file}:{line_of(text, where)}: {'.'.join(where)}"

    for name, domain in settings.served().items():
        if domain.encoder not in settings.encoders:
            raise BadConfig(f"{at('domains', name, 'encoder')}: no [encoders.{domain.encoder}]",
                            field=f"domains.{name}.encoder", hint=f"known: {', '.join(settings.encoders)}")
    for name, output in settings.outputs.items():
        if output.domain is not None and output.domain not in settings.served():
            raise BadConfig(f"{at('outputs', name, 'domain')}: no domain {output.domain!r}",
                            field=f"outputs.{name}.domain", hint=f"known: {', '.join(settings.served())}")
    for table, named in (("feeds", settings.feeds), ("observers", settings.observers)):
        for name, one in named.items():
            if one.domain not in settings.served():
                raise BadConfig(f"{at(table, name, 'domain')}: no domain {one.domain!r}",
                                field=f"{table}.{name}.domain", hint=f"known: {', '.join(settings.served())}")
    if settings.domain is not None and settings.domain not in settings.served():
        raise BadConfig(f"{at('domain')}: no domain {settings.domain!r}", field="domain",
                        hint=f"known: {', '.join(settings.served())}")
    _check_listening(settings.http, at)


def _check_listening(http: Http, at: Callable[..., str]) -> None:
    """Refuse to listen beyond loopback in clear text, unless it is said that this is meant."""
    if (http.certfile is None) != (http.keyfile is None):
        missing = "keyfile" if http.keyfile is None else "certfile"
        raise BadConfig(f"{at('http', missing)}: certfile and keyfile go together", field=f"http.{missing}",
                        hint=f"give {missing}")
    if http.tcp and http.certfile is None and not http.cleartext and http.host not in LOOPBACK:
        raise BadConfig(f"{at('http', 'host')}: {http.host!r} is not loopback, and tokens and texts would go over the network"
                        " in clear text", field="http.host",
                        hint="give certfile and keyfile, or listen on 127.0.0.1 behind a TLS proxy; cleartext = true where"
                             " something else encrypts")


def _warn_unknown_environment() -> None:
    known = {f"ADAPTD_{name.upper()}" for name in Settings.model_fields} | {"ADAPTD_CONFIG"}
    for name in sorted(os.environ):
        if name.startswith("ADAPTD_") and name.split("__")[0] not in known:
            warnings.warn(f"unknown environment variable {name}", stacklevel=2)
