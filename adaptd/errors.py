"""Every error adaptd raises on purpose. The docstring is the default message; `hint` says the cure.

`code` is the machine-readable name in HTTP bodies and logs, `status` the HTTP status, `exit_code` the
process exit code of the command line (DESIGN section 6).
"""

from __future__ import annotations

from typing import Any, ClassVar


class AdaptdError(Exception):
    """adaptd could not do what was asked."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, *, hint: str = "", field: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.hint = hint
        self.field = field
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """Return the contract's error object: code, message, hint and, where there is one, the field."""
        out = {"code": self.code, "message": self.message, "hint": self.hint}
        return out if self.field is None else {**out, "field": self.field}


class BadConfig(AdaptdError):
    """The configuration is not valid."""

    code = "bad_config"
    exit_code = 78


class BadName(AdaptdError):
    """That cannot be a name."""

    code = "bad_name"
    status = 422
    exit_code = 2


class CannotStart(AdaptdError):
    """The daemon could not start."""

    code = "cannot_start"
    exit_code = 3


class NotRunning(AdaptdError):
    """No daemon is running on this store."""

    code = "not_running"
    exit_code = 3


class Disconnected(AdaptdError):
    """The daemon closed the connection before it answered."""

    code = "disconnected"


class NoAnswer(AdaptdError):
    """The daemon did not answer in time."""

    code = "no_answer"


class StoreLocked(CannotStart):
    """Another process holds this store."""

    code = "store_locked"


class SchemaMismatch(CannotStart):
    """The store's schema is not the one this adaptd wants."""

    code = "schema_mismatch"


class MissingExtra(CannotStart):
    """An optional dependency is not installed."""

    code = "missing_extra"


class BadPayload(AdaptdError):
    """The payload is not what the domain takes."""

    code = "bad_payload"
    status = 422


class BadFile(AdaptdError):
    """The file is not what it was taken for."""

    code = "bad_file"


class BadRequest(AdaptdError):
    """The request could not be read."""

    code = "bad_request"
    status = 400


class TooLarge(AdaptdError):
    """The request is larger than the limit."""

    code = "too_large"
    status = 413


class UnknownDomain(AdaptdError):
    """There is no such domain."""

    code = "unknown_domain"
    status = 404


class NotFound(AdaptdError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class Conflict(AdaptdError):
    """The request contradicts what is stored."""

    code = "conflict"
    status = 409


class Forgotten(AdaptdError):
    """This was forgotten."""

    code = "forgotten"
    status = 410


class Busy(AdaptdError):
    """The daemon is at capacity."""

    code = "busy"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_s: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint or f"retry after {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class DiskLow(Busy):
    """The store's disk is nearly full: nothing new is taken, answers go on."""

    code = "disk_low"
    status = 503


class NotWritten(Busy):
    """What writes this domain's answers failed; other domains answer."""

    code = "not_written"
    status = 503


class Paused(Busy):
    """The feed is paused."""

    code = "paused"
    status = 503


class NotReady(AdaptdError):
    """The daemon is not ready to answer."""

    code = "not_ready"
    status = 503


class Cancelled(Conflict):
    """The adaptation was cancelled."""

    code = "cancelled"
    by = "adaptd"  # who did it


class Refused(AdaptdError):
    """A gate refused this."""

    code = "refused"
    status = 409
    exit_code = 4


class Unauthorized(AdaptdError):
    """A valid token is needed."""

    code = "unauthorized"
    status = 401


class BadSignature(Unauthorized):
    """The signature is missing, or is not that of the body and our secret."""

    code = "bad_signature"


class CorruptFile(AdaptdError):
    """A file does not match the digest in the registry."""

    code = "corrupt_file"


class BadBackup(AdaptdError):
    """The backup is not whole."""

    code = "bad_backup"


class Forbidden(AdaptdError):
    """This is not allowed from there."""

    code = "forbidden"
    status = 403


class StoreFailed(AdaptdError):
    """The store could not be written; nothing more is acknowledged."""

    code = "store_failed"
    status = 503


class StoreUnreadable(AdaptdError):
    """The store cannot be read at the moment."""

    code = "store_unreadable"
    status = 503


class PluginError(AdaptdError):
    """A plugin failed."""

    code = "plugin_error"


class NotDelivered(AdaptdError):
    """The alert was not taken."""

    code = "not_delivered"


class TrainingFailed(AdaptdError):
    """The training process did not deliver a candidate."""

    code = "training_failed"
