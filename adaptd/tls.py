"""The daemon's certificate: TLS 1.2 and later, and a key that strangers cannot read (a group may)."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from adaptd.config import Http
from adaptd.errors import BadConfig


def context(http: Http, folder: Path) -> ssl.SSLContext | None:
    """Return what a TLS socket needs, None where the configuration names no certificate; `folder` is the configuration's.

    Raises
    ------
    BadConfig
        A file is not there, is not what it is taken for, or the key can be read by others.
    """
    if http.certfile is None or http.keyfile is None:
        return None
    certfile, keyfile = folder / http.certfile, folder / http.keyfile
    for name, file in (("certfile", certfile), ("keyfile", keyfile)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise BadConfig(f"http.{name}: {file}: {error.strerror}", field=f"http.{name}",
                            hint="name a PEM file that this user can read") from None
    if keyfile.stat().st_mode & (stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH):
        raise BadConfig(f"http.keyfile: {keyfile} can be read by others, or written by the group", field="http.keyfile",
                        hint=f"chmod 600 {keyfile}")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(certfile, keyfile, password=_locked)
    except (ssl.SSLError, ValueError) as error:
        raise BadConfig(f"http.certfile, http.keyfile: {getattr(error, 'reason', None) or error}", field="http.certfile",
                        hint="a PEM certificate and the key that belongs to it, without a password") from None
    return made


def _locked() -> str:
    """Refuse a key with a password: a daemon has nobody to ask."""
    raise ValueError("the key has a password")
