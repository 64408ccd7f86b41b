"""Reads a request: its bytes up to the limit, their type, and what they say."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from adaptd import strictjson
from adaptd.api.errors import TooSlow, Unprocessable, UnsupportedMedia
from adaptd.bulk import LEAST
from adaptd.config import Limits
from adaptd.errors import BadRequest, TooLarge
from adaptd.records import canonical
from adaptd.strictjson import Unread

LARGE = 1 << 16  # bytes of a body; what is less is read here in a millisecond
JSON, NDJSON = "application/json", "application/x-ndjson"
M = TypeVar("M", bound=BaseModel)


@dataclass
class Batch:
    """Elements of a body, of lines each with its index there; those that could not be read are rejected already."""

    items: Sequence[Any] = ()
    index: list[int] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer about `items` as one about the whole body."""
        if not self.rejected:
            return dict(answer)
        rejected = [*self.rejected, *({**one, "index": self.index[one["index"]]} for one in answer["rejected"])]
        events: list[Any] = [None] * (len(self.items) + len(self.rejected))
        for index, event in zip(self.index, answer["events"], strict=False):
            events[index] = event
        return {**answer, "rejected": sorted(rejected, key=lambda one: one["index"]), "events": events}


async def read_object(request: Request, model: type[M], limits: Limits, *, may_be_empty: bool) -> M:
    """Return the body as the route's model."""
    _media_type(request, (JSON,))
    data = await read_bytes(request, limits)
    if not data.strip():
        if may_be_empty:
            return model()
        raise BadRequest("the body is empty", hint=_shape(model))
    lone = "inputs" in model.model_fields  # its elements are judged one by one
    value = strictjson.loads(data, lone_surrogates=lone)
    if not isinstance(value, dict):
        raise Unprocessable("the body must be a JSON object", hint=_shape(model))
    return check(model, value)


async def read_batch(request: Request, model: type[BaseModel], limits: Limits) -> Batch:
    """Return the elements of a JSON list, of a single object, or of lines of objects."""
    kind = _media_type(request, (JSON, NDJSON))
    data = await read_bytes(request, limits)
    if not data.strip():
        raise BadRequest("the body is empty", hint=_shape(model))
    if kind == NDJSON:
        return _lines(data, limits)
    batch = Unread(data, partial(_list, model=model, limits=limits), limits.items)
    return Batch(items=batch if len(data) >= LARGE and batch.about >= LEAST else batch[:])


def check_count(count: int, limits: Limits, name: str | None = None) -> None:
    """Refuse more elements than one request may have."""
    if count > limits.items:
        raise TooLarge(f"{count} elements; the limit is {limits.items}", field=name,
                       hint="send several requests, or raise limits.items")


def check(model: type[M], value: Any) -> M:
    """Return the value as the model; every complaint is in the one error."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _unprocessable(error, model) from None


def _unprocessable(error: ValidationError, model: type[BaseModel]) -> Unprocessable:
    known = list(model.model_fields)
    complaints, near = [], []
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        name = ".".join(str(part) for part in one["loc"])
        unknown = one["type"] == "extra_forbidden"
        complaints.append(f"unknown field {name[:80]!a}" if unknown else f"{name or 'the body'}: {one['msg']}")
        near += difflib.get_close_matches(name, known, 1) if unknown else []
    guess = f"did you mean {near[0]!r}? " if near else ""
    first = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
    return Unprocessable("; ".join(complaints[:10]), field=first[:80] or None,
                         hint=f"{guess}known: {', '.join(known) or 'no fields'}{_example(model)}")


def _shape(model: type[BaseModel]) -> str:
    return f"known: {', '.join(model.model_fields)}{_example(model)}"


def _example(model: type[BaseModel]) -> str:
    extra = model.model_config.get("json_schema_extra")
    examples: Any = extra.get("examples") if isinstance(extra, dict) else None
    return f"; for example {canonical(examples[0])}" if examples else ""


def _media_type(request: Request, accepted: tuple[str, ...]) -> str:
    hint = f"send content-type: {' or '.join(accepted)}"
    if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise UnsupportedMedia(f"content-encoding {coding[:40]!a} is not read", hint="send the body as it is")
    given = request.headers.get("content-type")
    if given in (None, JSON):
        return JSON
    header = Message()
    header["content-type"] = given
    kind, charset = header.get_content_type(), header.get_param("charset", "utf-8")
    if kind not in accepted or given.split(";")[0].strip().lower() != kind:
        raise UnsupportedMedia(f"content-type {given[:80]!a} is not read here", hint=hint)
    if str(charset).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMedia(f"charset {str(charset)[:40]!a} is not read", hint="send UTF-8")
    return kind


async def read_bytes(request: Request, limits: Limits) -> bytes:
    """Return the body; stop at the first byte over the limit."""
    too_large = TooLarge(f"the body has more than {limits.bytes} bytes", hint="send several requests, or raise limits.bytes")
    if (declared := request.headers.get("content-length", "0")).isdecimal() and int(declared[:20]) > limits.bytes:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                if len(data) + len(chunk) > limits.bytes:
                    raise too_large
                data += chunk
    except TimeoutError:
        raise TooSlow(f"the body did not arrive in {limits.body_s:g} s", hint="send it in smaller requests") from None
    return bytes(data)


def _list(data: bytes, *, model: type[BaseModel], limits: Limits) -> list[Any]:
    value = strictjson.loads(data, lone_surrogates=True)
    items = value if isinstance(value, list) else [value]
    if not items:
        raise Unprocessable("an empty list", hint=_shape(model))
    check_count(len(items), limits)
    return items


def _lines(data: bytes, limits: Limits) -> Batch:
    items: list[Any] = []
    batch, index = Batch(items=items), 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        check_count(index + 1, limits)
        try:
            items.append(strictjson.loads(line, lone_surrogates=True, line=number))
            batch.index.append(index)
        except BadRequest as error:
            batch.rejected.append({"index": index, "error": error.body()})
        index += 1
    return batch
