"""A new store's folder: a commented configuration and a token, ready to run."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from adaptd.errors import BadName, Conflict
from adaptd.paths import CONFIG, Paths

SOCKET_PATH_BYTES = 107  # what the kernel takes as a unix socket's path

# What is commented out here is the default; a test holds it against adaptd.config.
TEMPLATE = """\
# adaptd: everything of this store lies beside this file. Every setting with its default: configs/adaptd.toml.
# Check it with: adaptd config check

domain = "{domain}"  # the domain that commands mean when none is named
state = "{state}"  # where the database, versions and the socket are, seen from this file

[http]
# The unix socket adaptd.sock is always there; loopback TCP is guarded by the token in the file `token`.
# tcp = true
# host = "127.0.0.1"
# port = 0  # 0 picks one; `adaptd status` names it

[plugins]
allow = [{allow}]  # distributions that may be loaded; nothing else is imported

{table}
# encoder = "default"

# The tables below are defaults for every domain; [domains.NAME.adapt] and so on override them for one.

[adapt]
# every_labels = 1000  # train a candidate after so many new labels; 0 = not by count
# strategy = "replay"

[gate]
# kind = "not-worse"

# Follow a file into a domain, by line, as it is appended:
# [feeds.tickets]
# kind = "jsonl"
# domain = "{domain}"
# options = {{ path = "tickets.jsonl" }}
"""


def create(folder: Path, domain: str = "text") -> str | None:
    """Make a store's folder; return the plugin that gives the domain, if one does.

    Raises
    ------
    Conflict
        The folder is not empty, or is no folder.
    BadName
        The name cannot be a domain's.
    """
    check_name(domain, "--domain")
    check_folder(folder)
    plugin = provider(domain)
    kind = "" if plugin or domain == "text" else '\nkind = "text"  # the generic text classification'
    text = TEMPLATE.format(domain=domain, allow=f'"{plugin}"' if plugin else "", table=f"[domains.{domain}]{kind}",
                           state=".")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    _write(Paths(config=folder / CONFIG, state=folder).token, secrets.token_hex(32) + "\n")
    _write(folder / CONFIG, text)  # last: a folder with a configuration is whole
    return plugin


def check_name(domain: str, field: str) -> None:
    """Refuse what cannot be a domain's name."""
    from pydantic import TypeAdapter, ValidationError

    from adaptd.config import Name

    try:
        TypeAdapter(Name).validate_python(domain)
    except ValidationError:
        raise BadName(f"{domain!r} cannot be a domain's name", field=field,
                      hint="a small letter first, then small letters, digits, - and _; at most 63") from None


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot become a store's.

    Raises
    ------
    Conflict
        It is not empty, is no folder, or its path is too long for a socket in it.
    """
    check_empty(folder)
    socket = Paths(config=folder, state=folder.absolute()).socket
    if len(os.fsencode(socket)) > SOCKET_PATH_BYTES:
        raise Conflict(f"{socket} is too long for a unix socket ({SOCKET_PATH_BYTES} bytes)",
                       hint="name a folder nearer to the root")


def check_empty(folder: Path) -> None:
    """Refuse a folder that has something in it, or is none."""
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is not a folder", hint="name a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty", hint="name a new or an empty folder")


def provider(domain: str) -> str | None:
    """Return the installed distribution whose entry point has the domain's name; nothing is imported."""
    from adaptd.plugins import installed

    return next((entry.dist.name for entry in installed("adaptd") if entry.name == domain and entry.dist), None)


def _write(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)  # a configuration that a power cut left empty would be a valid one, of another store
