"""Install: the files that make adaptd a service of systemd, as Debian lays them out, and what is run once they lie there.

An administrator's files lie below /etc; a package's (`root`) below /usr/lib in its tree, and its scripts run the rest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from adaptd.errors import CannotStart, Conflict
from adaptd.newstore import TEMPLATE
from adaptd.paths import SYSTEM_CONFIG

STATE = Path("/var/lib/adaptd")
CREDENTIALS = SYSTEM_CONFIG.parent / "credentials"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 what the unit does not see
SHIPPED = "/opt/adaptd/bin/adaptd"  # what the unit starts as shipped
PLAIN = re.compile(r"[\w./+:@-]+")  # of a path: what a unit takes as it is
SYSUSERS = f'u adaptd - "adaptd, continual learning" {STATE}\n'
TMPFILES = f"""\
d {SYSTEM_CONFIG.parent} 0750 root adaptd -
d {CREDENTIALS} 0700 root root -
d {STATE} 0750 adaptd adaptd -
z {SYSTEM_CONFIG} 0640 root adaptd -
"""
AFTERWARDS = (("systemd-sysusers", "adaptd.conf"), ("systemd-tmpfiles", "--create", "adaptd.conf"),
              ("systemctl", "daemon-reload"))


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the service, and what is to happen with it."""

    path: Path
    text: str
    mode: int
    state: str  # new, unchanged, changed (it differs from what would be written), kept (the administrator's own), unreadable


def plan(program: Path, root: Path | None = None) -> list[File]:
    """Return the files; `program` is the adaptd that the unit starts.

    Raises
    ------
    CannotStart
        The unit would not see the program.
    """
    lib = Path("/usr/lib") if root else Path("/etc")
    files = {lib / "systemd/system/adaptd.service": (unit(program), 0o644), lib / "sysusers.d/adaptd.conf": (SYSUSERS, 0o644),
             lib / "tmpfiles.d/adaptd.conf": (TMPFILES, 0o644), SYSTEM_CONFIG: (configuration(), 0o640)}
    return [File(path=path, text=text, mode=mode, state=_state(path, text))
            for place, (text, mode) in files.items() for path in [below(root, place)]]


def below(root: Path | None, path: Path) -> Path:
    """Return where a path lies in a package's tree."""
    return path if root is None else root / path.relative_to("/")


def unit(program: Path) -> str:
    """Return the shipped unit for a program that lies elsewhere.

    Raises
    ------
    CannotStart
        Program or interpreter lie where the unit does not look, or the path means something else in a unit.
    """
    if not PLAIN.fullmatch(str(program)):
        raise CannotStart(f"{program}: a blank, % or quote means something else in a unit",
                          hint="name a path of letters, digits and . _ + : @ -")
    for path in (program, Path(sys.base_prefix)) if program == default_program() else (program,):
        if any(path.is_relative_to(hidden) for hidden in HIDDEN):
            raise CannotStart(f"{path} is hidden from the service (ProtectHome=, PrivateTmp=)",
                              hint="install adaptd below /opt with the system's Python: python3 -m venv /opt/adaptd")
    return _shipped().read_text(encoding="utf-8").replace(f"ExecStart={SHIPPED}", f"ExecStart={program}")


def default_program() -> Path:
    """Return the adaptd that runs."""
    return Path(sys.prefix) / "bin" / "adaptd"


def configuration() -> str:
    """Return the configuration of a fresh service."""
    text = TEMPLATE.format(domain="text", allow="", table="[domains.text]", state=STATE)
    return text.replace("# adaptd: everything of this store lies beside this file.", "# adaptd as a service.")


def _shipped() -> Path:
    """Return the unit: inside the wheel, or beside the package in a checkout."""
    inside = Path(str(resources.files("adaptd") / "configs" / "adaptd.service"))
    return inside if inside.is_file() else Path(__file__).resolve().parent.parent / "configs" / "adaptd.service"


def _state(path: Path, text: str) -> str:
    try:
        found = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "new"
    except PermissionError:
        return "unreadable"
    if found == text:
        return "unchanged"
    return "kept" if path.name == SYSTEM_CONFIG.name else "changed"


def write(files: Sequence[File], *, force: bool) -> None:
    """Write what is new, and over what was changed if forced; the administrator's configuration is never touched.

    Raises
    ------
    Conflict
        A file was changed; nothing is written then.
    CannotStart
        A file cannot be read by this user.
    """
    if unreadable := [str(file.path) for file in files if file.state == "unreadable"]:
        raise CannotStart(f"{', '.join(unreadable)}: not readable for this user", hint="run it as the user that owns them")
    if not force and (changed := [str(file.path) for file in files if file.state == "changed"]):
        raise Conflict(f"{', '.join(changed)}: changed since, or written by another adaptd",
                       hint="put your changes into a drop-in (systemctl edit adaptd), then: adaptd install-service --force")
    for file in files:
        if file.state in ("new", "changed"):
            file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = file.path.with_name(f".{file.path.name}.tmp")
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, file.mode)  # whatever the umask is
                stream.write(file.text)
                stream.flush()
                os.fsync(descriptor)
            temporary.rename(file.path)


def settle() -> Iterator[str]:
    """Make user and folders, and let systemd read the unit; yield each command as it was run.

    Raises
    ------
    CannotStart
        One failed.
    """
    for command in AFTERWARDS:
        words = " ".join(command)
        if shutil.which(command[0]) is None:
            raise CannotStart(f"there is no {command[0]}", hint=f"install systemd, or do by hand what {words} does")
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_environment())
        if done.returncode:
            raise CannotStart(f"{words} failed: {done.stderr.strip()}", hint="the files are written; mend that and run it again")
        yield words


def _environment() -> Mapping[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
