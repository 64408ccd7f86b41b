"""Signatures of what is sent to a web hook, as Standard Webhooks has them: HMAC-SHA256 over id, moment and body."""

from __future__ import annotations

import base64
import binascii
import hmac

from adaptd.errors import BadConfig

PREFIX = "whsec_"
SHORTEST = 16  # bytes of a secret


def key(secret: str) -> bytes:
    """Return the key of a secret like whsec_….

    Raises
    ------
    BadConfig
        It is not base64, or too short.
    """
    try:
        found = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadConfig("secret: not whsec_ and base64", field="secret",
                        hint="take it as the other side shows it, by reference") from None
    if len(found) < SHORTEST:
        raise BadConfig(f"secret: shorter than {SHORTEST} bytes", field="secret",
                        hint='"whsec_" and what openssl rand -base64 32 says make one')
    return found


def signature(key: bytes, name: str, moment: str, body: bytes) -> str:
    """Return the header `webhook-signature` of a body that is sent under an id at a moment (seconds)."""
    content = f"{name}.{moment}.".encode("latin-1") + body
    return f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}"
