"""The systemd unit: systemd reads it without a word, and finds little that it could do to the machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import missing

UNIT = Path(__file__).parents[2] / "configs" / "adaptd.service"
EXPOSURE = 1.5


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return a copy whose program is on this machine."""
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    return copy


def test_systemd_has_nothing_to_say_about_it(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_little_exposed(unit: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=true", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None and float(found[1]) <= EXPOSURE, done.stdout + done.stderr


def test_its_exit_code_for_a_wrong_configuration_is_adaptds() -> None:
    from adaptd.errors import BadConfig

    text = UNIT.read_text()
    assert f"RestartPreventExitStatus={BadConfig.exit_code}" in text and "ExecReload=/bin/kill -HUP" in text
    assert "--config /etc/adaptd/adaptd.toml" in text
