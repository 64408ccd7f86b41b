"""The configuration: the shipped files are true, and every mistake is told with file, line, key and cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from adaptd import config
from adaptd.cli import main
from adaptd.errors import BadConfig
from adaptd.tomlfile import line_of, secrets

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("ADAPTD_")]:
        monkeypatch.delenv(name)


def written(folder: Path, text: str) -> Path:
    file = folder / "adaptd.toml"
    file.write_text(text)
    return file


def settings_in(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every setting of a section and of the sections in it, by its dotted name."""
    for name, field in model.model_fields.items():
        inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ()))
                 if isinstance(a, type) and issubclass(a, config.Section)]
        if inner:
            key = {"encoders": ("encoders", "default"), "domains": ("domains", "text"), "feeds": ("feeds", "tickets"),
                   "outputs": ("outputs", "warehouse"), "alerts": ("alerts", "ops"), "observers": ("observers", "opinion"),
                   "rules": ("domains", "text", "rules", "no_refund")}
            at = (name,) if name in config.SHARED else key.get(name, (*prefix, name))
            yield from settings_in(inner[0], at)
        else:
            yield (*prefix, name)


def named_in(text: str) -> set[tuple[str, ...]]:
    """Return the settings that a file gives or names in a comment."""
    found, table = set(), ()
    for line in text.splitlines():
        if header := re.match(r"(?:# )?\[([\w.]+)\]", line):
            table = tuple(header[1].split("."))
        elif setting := re.match(r"(?:# )?(\w+) = .+  # \S", line):
            found.add((*table, setting[1]))
    return found


def test_the_full_file_equals_the_defaults(tmp_path: Path) -> None:
    full, _ = config.load(CONFIGS / "adaptd.toml")
    empty, _ = config.load(written(tmp_path, ""))
    assert full.model_dump() == empty.model_dump()


def test_the_full_file_has_every_setting_with_a_comment() -> None:
    wanted = set(settings_in(config.Settings))
    found = named_in((CONFIGS / "adaptd.toml").read_text())
    assert found == wanted, f"missing: {wanted - found}; unknown: {found - wanted}"


def test_what_the_full_file_leaves_out_is_none_by_default() -> None:
    text = (CONFIGS / "adaptd.toml").read_text()
    tables = {"kind", "domain", "source", "options", "fields", "what", "on", "repeat_s", "newest"}
    left_out = set(re.findall(r"^# (\w+) = ", text, re.M)) - tables - set(config.RuleSettings.model_fields)
    defaults = {**config.Settings.model_fields, **config.Store.model_fields, **config.Adapt.model_fields,
                **config.Http.model_fields, **config.Documents.model_fields,
                **config.VocabularySettings.model_fields}
    assert all(defaults[name].default is None for name in left_out)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.toml")), ids=lambda file: file.name)
def test_every_shipped_file_is_valid(file: Path) -> None:
    config.load(file)


MISTAKES = [
    ("[http]\nprot = 80", "adaptd.toml:2", "http.prot", "did you mean 'port'"),
    ("\n[adapt]\nstratgy = 'ewc'", "adaptd.toml:3", "adapt.stratgy", "did you mean 'strategy'"),
    ("[domains.a]\n[domains.b.adapt]\nevery_label = 3", "adaptd.toml:3", "domains.b.adapt.every_label", "every_labels"),
    ("colour = 1", "adaptd.toml:1", "colour", "known here"),
    ("[http]\nport = 'eighty'", "adaptd.toml:2", "http.port", "configs/adaptd.toml"),
    ("[limits]\n\nitems = -1", "adaptd.toml:3", "limits.items", "configs/adaptd.toml"),
    ("limits = {bytes = 0}", "adaptd.toml:1", "limits.bytes", "configs/adaptd.toml"),
    ("[memory]\nneighbours = 0", "adaptd.toml:2", "memory.neighbours", "configs/adaptd.toml"),
    ("[domains.a]\nencoder = 'bert'", "adaptd.toml:2", "domains.a.encoder", "known: default"),
    ("domain = 'b'\n[domains.a]", "adaptd.toml:1", "domain", "known: a, text"),
    ("[feeds.f]\nkind = 'jsonl'\ndomain = 'b'", "adaptd.toml:3", "feeds.f.domain", "known: text"),
    ("[http]\nhost = '0.0.0.0'", "adaptd.toml:2", "http.host", "TLS proxy"),
    ("[domains.Bad]", "adaptd.toml:1", "domains.Bad", "configs/adaptd.toml"),
    ("domains = 3", "adaptd.toml:1", "domains", "[domains.NAME]"),
    ("[domains]\na = 3", "adaptd.toml:2", "domains.a", "configs/adaptd.toml"),
    ("state = 3", "adaptd.toml", "state", ""),
    ("[http", "adaptd.toml", "not valid TOML", "mend that line"),
    ("[encoders.default.options]\nkey = {'$env' = 'NO_SUCH_VARIABLE'}", "", "NO_SUCH_VARIABLE", "set it"),
    ("[encoders.default.options]\nkey = {'$file' = 'nowhere'}", "", "nowhere", "make it readable"),
]


@pytest.mark.parametrize(("text", "place", "key", "cure"), MISTAKES, ids=[key for _, _, key, _ in MISTAKES])
def test_a_mistake_is_told_with_place_key_and_cure_and_exits_78(tmp_path: Path, text: str, place: str, key: str,
                                                                cure: str) -> None:
    written(tmp_path, text)
    result = CliRunner().invoke(main, ["config", "check", "--config", str(tmp_path)])
    assert result.exit_code == 78
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert place in result.stderr and key in result.stderr and cure in result.stderr


def test_a_missing_file_exits_78_and_says_how_to_make_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path), "status"])
    assert result.exit_code == 78
    assert "adaptd init" in result.stderr


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTD_HTTP__PORT", "8080")
    settings, _ = config.load(written(tmp_path, "[http]\nport = 1\ntcp = false"))
    assert (settings.http.port, settings.http.tcp) == (8080, False)


def test_an_environment_variable_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTD_HTTP", "{")
    with pytest.raises(BadConfig, match="environment"):
        config.load(written(tmp_path, ""))


def test_an_unknown_environment_variable_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTD_PROT", "1")
    with pytest.warns(UserWarning, match="ADAPTD_PROT"):
        config.load(written(tmp_path, ""))


def test_a_domain_inherits_the_tables_for_every_domain(tmp_path: Path) -> None:
    settings, _ = config.load(written(tmp_path, "[adapt]\nseed = 7\nthreads = 2\n[domains.a.adapt]\nthreads = 3"))
    adapt = {name: (d.adapt.seed, d.adapt.threads) for name, d in settings.served().items()}
    assert adapt == {"a": (7, 3), "text": (7, 2)}


def test_secrets_are_read_by_reference_and_known_as_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A_TEST", "s3cret")
    (tmp_path / "password").write_text("hush\n")
    file = written(tmp_path, "[encoders.default.options]\na = {'$env' = 'KEY_OF_A_TEST'}\nb = [{'$file' = 'password'}]")
    settings, _ = config.load(file)
    assert settings.encoders["default"].options == {"a": "s3cret", "b": ["hush"]}
    assert secrets(file) == {"s3cret", "hush"}


def test_config_show_masks_secrets_and_shows_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_A_TEST", "s3cret")
    written(tmp_path, "[encoders.default.options]\nkey = {'$env' = 'KEY_OF_A_TEST'}")
    result = CliRunner().invoke(main, ["config", "--config", str(tmp_path)])
    assert result.exit_code == 0
    assert "s3cret" not in result.stdout
    assert 'encoders.default.options.key = "***"' in result.stdout
    assert "http.port = 0" in result.stdout


def test_a_key_is_found_in_its_own_table() -> None:
    text = '[a]\nkind = 1\n[b]\nkind = 2\n["c"]\nd.kind = 3\ne = { kind = 4 }'
    assert tomllib.loads(text)["c"]["d"]["kind"] == 3
    wanted = {"b.kind": 4, "c.d.kind": 6, "c.e.kind": 7, "b.other": 3, "z": 1}
    assert {where: line_of(text, where.split(".")) for where in wanted} == wanted
