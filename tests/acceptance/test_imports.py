"""What must start fast imports nothing heavy: proved by blocking the heavy packages in a real process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adaptd import db, registry

pytestmark = pytest.mark.acceptance

HEAVY = ("torch", "transformers", "faiss", "avalanche", "sklearn", "sqlalchemy", "alembic", "pydantic", "numpy")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); from adaptd.cli import main; main()"


def adaptd(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process where importing a heavy package raises."""
    return subprocess.run([sys.executable, "-c", BLOCKED, *args], capture_output=True, text=True, timeout=240)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Return the folder of a store whose daemon is not running."""
    engine = db.writing_engine(tmp_path / "adaptd.db")
    db.upgrade(engine)
    with engine.begin() as connection:
        registry.create_domain(connection, "text", "encoder", "config")
    engine.dispose()
    (tmp_path / "adaptd.toml").write_text("[domains.text]\n")
    return tmp_path


@pytest.mark.parametrize("args", ["--help", "status --help", "run --help", "rollback -h", "--version"])
def test_help_imports_nothing_heavy(args: str) -> None:
    result = adaptd(*args.split())
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", ["status", "history"])
def test_a_stopped_store_is_read_without_anything_heavy(stopped: Path, command: str) -> None:
    result = adaptd(command, "--json", "--config", str(stopped))
    assert result.returncode == 3, result.stderr
    assert json.loads(result.stdout)["state"] == "stopped"
    assert adaptd(command, "--config", str(stopped)).returncode == 3


def test_asking_a_daemon_imports_nothing_heavy(stopped: Path) -> None:
    result = adaptd("predict", "hello", "--config", str(stopped))
    assert result.returncode == 3
    assert "no daemon listens" in result.stderr


def test_the_block_has_teeth() -> None:
    code = BLOCKED.replace("from adaptd.cli", "import sqlalchemy; from adaptd.cli")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert "ModuleNotFoundError" in result.stderr
