"""The wheels work without the checkout: adaptd carries its migrations and configs, each plugin builds its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout; return its output, fail with all it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ADAPTD_", "PYTHONPATH"))}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=clean, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build every wheel; return each by the name of its distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, *PLUGINS):
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project, cwd=folder)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheels into a fresh environment that sees this one's libraries, not its adaptd; return its bin."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels.values(), cwd=folder)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    # a path in a .pth file comes after the environment's own packages, and .pth files in it are not read: the
    # editable adaptd of the tests' environment stays out
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_there_is_a_wheel_of_adaptd_and_one_of_each_plugin(wheels: dict[str, Path]) -> None:
    assert len(wheels) == 1 + len(PLUGINS) and {"adaptd", "adaptd_support"} <= set(wheels)


def test_the_wheel_carries_migrations_and_configs_and_no_tests(wheels: dict[str, Path]) -> None:
    names = set(zipfile.ZipFile(wheels["adaptd"]).namelist())
    for folder in ("migrations", "configs"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*")
                 if path.is_file() and "__pycache__" not in path.parts}
        assert files and {f"adaptd/{name}" for name in files} <= names
    assert {name.split("/")[0] for name in names} == {"adaptd", "adaptd-0.1.0.dist-info"}


def test_what_runs_is_the_wheel_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = "import adaptd, adaptd_support; print(adaptd.__file__, adaptd_support.__file__, sep='\\n')"
    found = run(installed / "python", "-c", program, cwd=tmp_path)
    assert all(Path(path).is_relative_to(installed.parent) for path in found.splitlines())


def test_an_installed_adaptd_makes_and_upgrades_a_store(installed: Path, tmp_path: Path) -> None:
    run(installed / "adaptd", "init", tmp_path / "store", "--domain", "support", cwd=tmp_path)
    assert (tmp_path / "store" / "adaptd.toml").is_file()
    run(installed / "adaptd", "config", "check", "--config", tmp_path / "store", cwd=tmp_path)
    run(installed / "adaptd", "db", "upgrade", "--config", tmp_path / "store", cwd=tmp_path)
    current = run(installed / "adaptd", "db", "current", "--config", tmp_path / "store", "--json", cwd=tmp_path)
    newest = max(path.name.split("_")[0] for path in (ROOT / "migrations" / "versions").glob("*.py"))
    assert newest in json.dumps(json.loads(current))
    assert (tmp_path / "store" / "adaptd.db").is_file()


def test_the_installed_plugin_is_listed_and_allowed(installed: Path, tmp_path: Path) -> None:
    run(installed / "adaptd", "init", tmp_path / "store", "--domain", "support", cwd=tmp_path)
    listed = run(installed / "adaptd", "plugins", "list", "--config", tmp_path / "store", "--json", cwd=tmp_path)
    assert "adaptd-support" in listed
