"""`adaptd install-service`: what it writes into a package's tree, and what it leaves alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adaptd import config, install
from adaptd.cli import main

PROGRAM = "/opt/adaptd/bin/adaptd"
UNIT = "usr/lib/systemd/system/adaptd.service"


def run(root: Path, *words: str, program: str = PROGRAM, expect: int = 0) -> str:
    done = CliRunner().invoke(main, ["install-service", "--root", str(root), "--program", program, *words])
    assert done.exit_code == expect, done.output
    return done.output


def test_a_packages_tree_has_unit_user_folders_and_a_configuration_that_is_valid(tmp_path: Path) -> None:
    run(tmp_path)
    found = {str(path.relative_to(tmp_path)): f"{path.stat().st_mode & 0o777:o}" for path in tmp_path.rglob("*")
             if path.is_file()}
    assert found == {UNIT: "644", "usr/lib/sysusers.d/adaptd.conf": "644", "usr/lib/tmpfiles.d/adaptd.conf": "644",
                     "etc/adaptd/adaptd.toml": "640"}
    settings, paths = config.load(tmp_path / "etc/adaptd")
    assert str(paths.state) == "/var/lib/adaptd" and list(settings.served()) == ["text"]


def test_a_second_time_changes_nothing_and_what_was_changed_is_kept_unless_forced(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(tmp_path).count(": unchanged\n") == 4
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    unit, own = tmp_path / UNIT, tmp_path / "etc/adaptd/adaptd.toml"
    shipped = unit.read_text()
    unit.write_text(shipped.replace("WatchdogSec=30", "WatchdogSec=0"))
    own.write_text("[http]\ntcp = false\n")
    (tmp_path / "usr/lib/sysusers.d/adaptd.conf").unlink()
    said = run(tmp_path, expect=1)
    assert str(unit) in said and "--force" in said and "drop-in" in said
    assert "WatchdogSec=0" in unit.read_text() and not (tmp_path / "usr/lib/sysusers.d/adaptd.conf").exists()
    assert "left as you have it" in run(tmp_path, "--force")
    assert unit.read_text() == shipped and own.read_text() == "[http]\ntcp = false\n"


def test_a_dry_run_shows_all_and_writes_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, "--dry-run")
    assert f"{tmp_path / UNIT} (new, mode 0644)" in said and "ExecStart=" in said and "u adaptd" in said
    assert not list(tmp_path.iterdir())
    said = CliRunner().invoke(main, ["install-service", "--dry-run", "--program", PROGRAM]).output
    assert "# /etc/systemd/system/adaptd.service" in said and "# systemctl daemon-reload" in said


def test_the_unit_starts_the_program_that_is_named_and_one_that_it_cannot_see_is_refused(tmp_path: Path) -> None:
    run(tmp_path, program="/srv/adaptd/bin/adaptd")
    assert "ExecStart=/srv/adaptd/bin/adaptd run --config /etc/adaptd/adaptd.toml" in (tmp_path / UNIT).read_text()
    said = run(tmp_path, program="/home/me/venv/bin/adaptd", expect=3)
    assert "/home/me" in said and "python3 -m venv /opt/adaptd" in said
    assert "absolute" in run(tmp_path, program="bin/adaptd", expect=2)
    for program in ("/srv/my programs/adaptd", "/srv/100%/adaptd", '/srv/"a"/adaptd', "/srv/$HOME/adaptd"):
        assert "in a unit" in run(tmp_path, program=program, expect=3)


def test_what_an_ordinary_user_cannot_read_is_said_in_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refused(path: Path, *given: Any, **named: Any) -> str:
        if path == tmp_path / "etc/adaptd/adaptd.toml":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    assert "adaptd.toml (unreadable, mode 0640)" in run(tmp_path, "--dry-run")
    assert "not readable" in run(tmp_path, expect=3) and not list(tmp_path.iterdir())


def test_only_root_writes_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(install, "write", lambda *_, **__: pytest.fail("it wrote"))
    done = CliRunner().invoke(main, ["install-service", "--program", PROGRAM])
    assert done.exit_code == 3 and "--dry-run" in done.output


def test_a_command_that_fails_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 1, "", "no such group"))
    with pytest.raises(install.CannotStart, match="systemd-sysusers adaptd.conf failed: no such group"):
        list(install.settle())
