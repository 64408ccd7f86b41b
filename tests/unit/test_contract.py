"""A new plugin is whole, and the contract suite says of an installed one what is wrong."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adaptd import contract, scaffold
from adaptd.contract import Finding
from adaptd.errors import BadName, Conflict, NotFound
from adaptd.testing import NAME

Install = Callable[..., None]
GATE = """
import adaptd
from dataclasses import dataclass

@dataclass(frozen=True)
class Lenient:
    name = "lenient"{options}
    def judge(self, scores):
        return adaptd.Verdict(decision="promote", reasons=["why not"])

@adaptd.hookimpl
def register_gates():
    return [Lenient]
"""
DOMAIN = """
import adaptd

class Domain(adaptd.Domain):
    name = "odd"
    {body}
    def example(self, payload):
        return adaptd.Example(text=payload["text"])

@adaptd.hookimpl
def register_domains():
    return [Domain]
"""
FEED = """
import adaptd

class Feed:
    name = "tape"
    def read(self):
        yield []
    def lag(self):
        return None

@adaptd.hookimpl
def register_feeds():
    return [Feed]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return a function that installs a plugin with one module into the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, group: str = "adaptd") -> None:
        (tmp_path / "odd_plugin.py").write_text(source)
        folder = tmp_path / "odd_plugin-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\nodd = odd_plugin\n")

    yield make
    sys.modules.pop("odd_plugin", None)


def only(name: str = "odd-plugin") -> Finding:
    (found,) = contract.check(name)
    return found


@pytest.mark.parametrize("name", ["tickets", "ward-3", "none", "a_b"])
def test_a_new_plugin_is_whole_and_its_test_passes(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / name
    scaffold.create(name, folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    module = project["entry-points"]["adaptd"][name]
    assert project["name"] == f"adaptd-{name}" and NAME.fullmatch(name)
    program = (f"import runpy, sys; sys.path.insert(0, '.'); import {module}\n"
               f"tests = runpy.run_path('test_{module.removeprefix('adaptd_')}.py')\n"
               "found = [run for word, run in tests.items() if word.startswith('test_')]; assert found\n"
               f"for run in found: run()\nassert [cls.name for cls in {module}.register_domains()] == [{name!r}]")
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, timeout=240)


def test_a_plugin_that_cannot_be_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BadName, match="'Tickets' cannot be a domain's name"):
        scaffold.create("Tickets", tmp_path / "x")
    with pytest.raises(Conflict, match="'text' is a domain of adaptd itself"):
        scaffold.create("text", tmp_path / "x")
    with pytest.raises(Conflict, match="adaptd-support gives a domain 'support'"):
        scaffold.create("support", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        scaffold.create("tickets", tmp_path)


def test_a_plugin_is_named_by_its_distribution_or_its_entry_point(install: Install) -> None:
    install(DOMAIN.format(body='samples = [{"text": "a"}]'))
    assert only("odd") == only("odd-plugin")
    with pytest.raises(NotFound, match="no plugin 'even' is installed") as missing:
        contract.check("even")
    assert "odd-plugin" in missing.value.hint


def test_a_domain_that_raises_what_it_must_not_fails(install: Install) -> None:
    install(DOMAIN.format(body='samples = [{"text": "a"}]'))
    found = only()
    assert (found.kind, found.name, found.result) == ("domain", "odd", "failed")
    assert "KeyError" in found.message and "only BadPayload may reject" in found.message


def test_a_domain_without_samples_is_told_to_give_some(install: Install) -> None:
    install(DOMAIN.format(body=""))
    assert only().result == "failed" and "give the domain samples" in only().message


def test_a_gate_that_promotes_anything_fails(install: Install) -> None:
    install(GATE.format(options=""))
    assert only() == Finding(kind="gate", name="lenient", result="failed", message="no rows: was promoted")


def test_what_cannot_be_made_without_options_is_not_called_bad(install: Install) -> None:
    install(GATE.format(options="\n    margin: float"))
    assert only().result == "untried" and "margin" in only().message


def test_a_method_that_cannot_be_called_as_promised_fails(install: Install) -> None:
    install(FEED)
    assert only().result == "failed" and only().message.startswith("read(self, cursor) cannot be called")


def test_a_plugin_of_the_fast_group_must_not_import_what_is_slow(install: Install, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "avalanche", raising=False)
    (tmp_path / "avalanche.py").write_text("")
    install("import avalanche\n" + FEED.replace("def read(self)", "def read(self, cursor)"))
    slow, feed = contract.check("odd-plugin")
    monkeypatch.delitem(sys.modules, "avalanche")
    assert slow.result == "failed" and "it imports avalanche" in slow.message and feed.result == "passed"


@pytest.mark.parametrize(("source", "message"), [("1 / 0", "does not load"), ("", "no hook of it gives anything")])
def test_a_plugin_that_gives_nothing_fails(install: Install, source: str, message: str) -> None:
    install(source)
    assert only().result == "failed" and message in only().message
