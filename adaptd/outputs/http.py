"""What the outputs over HTTP share: where the server is, and one request. No redirect is followed: it would lead to who was not
named, with our secrets."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from adaptd.errors import BadConfig

LONGEST_ANSWER = 8 << 20


@dataclass(kw_only=True)
class HttpServer:
    """Options of every output over HTTP."""

    url: str = field(repr=False)  # some hold a secret in their path: by reference
    ca_file: str | None = None  # certificates that are trusted instead of the system's
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        found = urlsplit(self.url)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise BadConfig("url: not http:// or https:// and a host", field="url", hint='url = "https://host/path"')
        if self.timeout_s <= 0:
            raise ValueError("timeout_s must be positive")

    async def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        """Return what the server answers below our URL.

        Raises
        ------
        OSError
            It does not answer, or with anything but 2xx.
        """
        return await asyncio.to_thread(self._request, method, path, body, headers)

    async def json(self, method: str, path: str, value: Any, headers: Mapping[str, str]) -> Any:
        """Send a JSON value, None for nothing, and return the one that is answered."""
        body = None if value is None else json.dumps(value).encode()
        answer = await self.request(method, path, body, {"Content-Type": "application/json", **headers})
        return json.loads(answer or b"null")

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        found = urlsplit(self.url)
        host, where = found.hostname or "", (found.path.rstrip("/") + path or "/") + (f"?{found.query}" if found.query else "")
        connection = http.client.HTTPConnection(host, found.port, timeout=self.timeout_s) if found.scheme == "http" else \
            http.client.HTTPSConnection(host, found.port, timeout=self.timeout_s,
                                        context=ssl.create_default_context(cafile=self.ca_file))
        try:
            connection.request(method, where, body, {"User-Agent": "adaptd", **headers})
            answer = connection.getresponse()
            said = answer.read(LONGEST_ANSWER)
        except http.client.HTTPException as error:
            raise ConnectionError(f"{host} does not speak HTTP: {type(error).__name__}") from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise ConnectionError(f"{host} answered {answer.status} {answer.reason}: {said[:200].decode(errors='replace')}")
        return said
