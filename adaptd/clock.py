"""Moments as people and programs write them: ISO 8601 with a zone, or seconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from adaptd.errors import BadPayload

CURE = 'ISO 8601 with a zone ("2026-05-04T14:05:00Z") or seconds since the epoch'


def moment(value: str | float, field: str) -> float:
    """Return a moment as seconds since the epoch.

    Raises
    ------
    BadPayload
        It is no moment, or one without a zone.

    >>> moment("2026-05-04T14:05:00Z", "at")
    1777903500.0
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadPayload(f"{field} must be a string or a number, not {type(value).__name__}", field=field, hint=CURE)
    if not isinstance(value, str):
        return _seconds(value, field)
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise BadPayload(f"{value[:40]!r} is not ISO 8601", field=field, hint=CURE) from None
    if found.tzinfo is None:
        raise BadPayload(f"{value!r} has no zone", field=field, hint=CURE)
    return found.timestamp()


def _seconds(value: float, field: str) -> float:
    try:
        seconds = float(value)
    except OverflowError:  # an integer of hundreds of digits
        seconds = math.inf
    if not math.isfinite(seconds):
        raise BadPayload(f"{field} is no moment", field=field, hint=CURE)
    return seconds


def written(at: float) -> str:
    """Return a moment as ISO 8601 in UTC.

    >>> written(1777903500.25)
    '2026-05-04T14:05:00.250000+00:00'
    """
    return datetime.fromtimestamp(at, UTC).isoformat()
