"""Errors that only HTTP knows, and how any error becomes an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from adaptd.errors import AdaptdError, BadSignature, Busy, NotReady, StoreFailed, StoreUnreadable, Unauthorized

RETRY_AFTER_S: Mapping[type[AdaptdError], float] = {NotReady: 1.0, StoreFailed: 5.0, StoreUnreadable: 5.0}


class Unprocessable(AdaptdError):
    """The request is not what this route takes."""

    code = "unprocessable"
    status = 422


class UnsupportedMedia(AdaptdError):
    """The body is not of a type that this route reads."""

    code = "unsupported_media_type"
    status = 415


class TooSlow(AdaptdError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class TooManyConnections(Busy):
    """There are too many connections."""

    code = "too_many_connections"
    status = 503


class Internal(AdaptdError):
    """Something failed inside adaptd; its log has the details."""

    code = "internal"


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer. NaN in it would be a fault of ours, and raises."""
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # a lone surrogate stands as its escape, which is what JSON can say of it
    return Response(text.encode("utf-8", "backslashreplace"), status, headers, "application/json")


def failure(error: AdaptdError, extra: Mapping[str, Any] | None = None) -> Response:
    """Return the contract's error object, with the headers that go with its status."""
    return reply({"error": error.body(), **(extra or {})}, error.status, _headers(error))


def status_failure(status: int, headers: Mapping[str, str] | None, path: str) -> Response:
    """Return the error object of a bare HTTP status: no such route, or not this method."""
    phrase = HTTPStatus(status).phrase
    hint = f"allowed: {headers['Allow']}" if headers and "Allow" in headers else "/openapi.json lists the routes"
    body = {"code": phrase.lower().replace(" ", "_"), "message": f"{phrase}: {path[:200]}", "hint": hint}
    return reply({"error": body}, status, headers)


def _headers(error: AdaptdError) -> dict[str, str]:
    if isinstance(error, TooManyConnections):
        return {"connection": "close", "retry-after": "1"}
    if isinstance(error, Busy):
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, BadSignature):
        return {"www-authenticate": "HMAC-SHA256"}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if isinstance(error, TooSlow):
        return {"connection": "close"}
    wait = next((s for kind, s in RETRY_AFTER_S.items() if isinstance(error, kind)), None)
    return {} if wait is None else {"retry-after": f"{wait:g}"}
