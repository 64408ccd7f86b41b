"""Plugins: who may come in, what is said when one is broken, and that nothing else is imported."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptd import config, plugins, testing
from adaptd.errors import BadConfig, PluginError
from adaptd.text import Text

Install = Callable[..., str]
DOMAIN = """
import adaptd

class {name}(adaptd.Domain):
    name = "{name}"
    def example(self, payload):
        return adaptd.Example(text=payload["text"])

@adaptd.hookimpl
def register_domains():
    return [{name}]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with one module into the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, source: str, group: str = "adaptd") -> str:
        module = name.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\nx = {module}\n")
        return module

    yield make  # type: ignore[misc]
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_the_built_ins_come_through_the_hooks() -> None:
    manager = plugins.load("adaptd", [])
    assert plugins.collect(manager, "register_domains")["text"] is Text
    assert set(plugins.collect(manager, "register_feeds")) == {"jsonl", "folder", "redis", "nats", "mqtt", "rabbitmq", "kafka",
                                                              "sse", "webhook"}
    assert set(plugins.collect(manager, "register_outputs")) == {"jsonl", "redis", "nats", "mqtt", "rabbitmq", "kafka", "webhook",
                                                                "labelstudio", "argilla"}
    assert set(plugins.collect(manager, "register_gates")) == {"not-worse"}


def test_only_what_is_on_the_allow_list_is_imported(install: Install) -> None:
    module = install("fake-domain", DOMAIN.format(name="fake"))
    assert "fake" not in plugins.collect(plugins.load("adaptd", []), "register_domains")
    assert module not in sys.modules
    assert "fake" in plugins.collect(plugins.load("adaptd", ["fake-domain"]), "register_domains")


def test_describe_lists_what_is_installed_without_importing_it(install: Install) -> None:
    module = install("fake-domain", "raise RuntimeError('imported')")
    (row,) = [row for row in plugins.describe([]) if row["name"] == "fake-domain"]
    assert row == {"name": "fake-domain", "version": "1.0", "allowed": False, "provides": ["adaptd: x"]}
    assert module not in sys.modules


def test_an_allowed_plugin_that_is_not_installed_stops_the_start_by_name() -> None:
    with pytest.raises(BadConfig, match="'adaptd-nothing' is on the allow-list but not installed") as missing:
        plugins.load("adaptd", ["adaptd-nothing"])
    assert missing.value.hint == "pip install adaptd-nothing, or take it off plugins.allow"
    assert missing.value.field == "plugins.allow"


def test_a_plugin_of_the_other_group_is_not_missing(install: Install) -> None:
    module = install("fake-learner", "raise RuntimeError('imported')", group="adaptd.learner")
    plugins.load("adaptd", ["fake-learner"])
    assert module not in sys.modules


@pytest.mark.parametrize("source", ["import nothing_of_that_name", "1 / 0", "def ("])
def test_a_plugin_that_does_not_import_stops_the_start_by_name(install: Install, source: str) -> None:
    install("fake-broken", source)
    with pytest.raises(PluginError, match=re.escape("'fake-broken' (fake_broken) does not load")):
        plugins.load("adaptd", ["fake-broken"])


def test_an_unknown_hook_is_an_error_that_lists_the_known_ones(install: Install) -> None:
    install("fake-hook", "import adaptd\n@adaptd.hookimpl\ndef register_models():\n    return []\n")
    with pytest.raises(PluginError, match="register_models") as unknown:
        plugins.load("adaptd", ["fake-hook"])
    assert "register_domains" in unknown.value.hint


def test_a_hook_that_raises_is_named(install: Install) -> None:
    install("fake-raises", "import adaptd\n@adaptd.hookimpl\ndef register_domains():\n    raise ValueError('no')\n")
    with pytest.raises(PluginError, match="'fake-raises' failed in register_domains: ValueError"):
        plugins.collect(plugins.load("adaptd", ["fake-raises"]), "register_domains")


def test_two_plugins_with_one_name_are_both_named(install: Install) -> None:
    install("fake-one", DOMAIN.format(name="same"))
    install("fake-two", DOMAIN.format(name="same"))
    with pytest.raises(PluginError, match=r"'fake-(one|two)' and 'fake-(one|two)' both give 'same'"):
        plugins.collect(plugins.load("adaptd", ["fake-one", "fake-two"]), "register_domains")


def test_an_unknown_name_is_an_error_with_the_nearest_known_one() -> None:
    with pytest.raises(BadConfig) as unknown:
        plugins.pick({"text": Text}, "txt", "domains.x.kind")
    assert unknown.value.hint == "did you mean 'text'? known: text" and unknown.value.field == "domains.x.kind"


def test_fields_that_are_no_options_are_not_offered() -> None:
    @dataclasses.dataclass
    class Thing:
        size: int = 1
        made: int = dataclasses.field(default=0, init=False)

    assert plugins.build(Thing, {"size": 2}, "x").size == 2
    with pytest.raises(BadConfig) as wrong:
        plugins.build(Thing, {"made": 2}, "x")
    assert wrong.value.hint == "options: size"


def test_an_option_that_must_be_given_is_named() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Thing:
        url: str
        size: int = 1

    with pytest.raises(BadConfig, match="feeds.x.options.url: it must be given") as missing:
        plugins.build(Thing, {"size": 2}, "feeds.x.options")
    assert (missing.value.field, missing.value.hint) == ("feeds.x.options.url", "options: url, size")


def test_plugins_and_the_fast_group_load_without_torch() -> None:
    """A blocked import would raise."""
    program = ("import sys\nfor name in ('torch', 'transformers', 'faiss', 'avalanche'): sys.modules[name] = None\n"
               "from adaptd import plugins, testing\nplugins.load('adaptd', ['adaptd-support'])")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)


def test_the_shipped_domain_is_found_by_its_distribution() -> None:
    assert "support" in plugins.collect(plugins.load("adaptd", ["adaptd-support"]), "register_domains")


def test_a_domain_s_name_is_one_that_the_configuration_takes() -> None:
    (pattern,) = [m.pattern for m in config.Name.__metadata__[0].metadata if hasattr(m, "pattern")]
    assert pattern == f"^{testing.NAME.pattern}$"
