"""JSON as the standard has it, where Python's parser is lenient: every refusal says the place.

Refused: what is not UTF-8, a byte order mark, NaN and infinities, duplicate keys, nesting deeper than 32, integers
beyond 64 bits, lone surrogates (unless the caller looks at each element itself, as `adaptd.ingest` does).

The C parser does the work, with hooks that notice; only a document with a fault is read again, slowly, for the place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NoReturn

from adaptd.errors import BadRequest

DEPTH = 32
INT64 = range(-(1 << 63), 1 << 63)
INT64_DIGITS = 20
NESTED = frozenset((list, dict))
# Possessive quantifiers: a hostile string is read once, never backtracked into.
TOKEN = re.compile(r'(?P<string>"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))|(?P<number>-?(?:NaN|Infinity|\d[\d.eE+-]*+))'
                   r"|(?P<open>[\[{])|(?P<close>[\]}])", re.DOTALL)
COLON = re.compile(r"\s*:")
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Unread(Sequence[Any]):
    """The elements of a body, read when one of them is wanted; `read` refuses one that has none, or more than `most`."""

    def __init__(self, body: bytes, read: Callable[[bytes], Sequence[Any]], most: int) -> None:
        self.body = body
        self._read = read
        self._most = most

    @property
    def about(self) -> int:
        """How many there may be, as far as can be seen without reading it: not fewer objects than there are."""
        return min(self.body.count(b"{"), self._most)

    @cached_property
    def _elements(self) -> Sequence[Any]:
        return self._read(self.body)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._elements)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements)

    def __getitem__(self, place: Any) -> Any:
        return self._elements[place]


class _Fault(ValueError):
    """The parser met something that is refused; `_faults` finds out what and where."""


def loads(data: bytes, *, lone_surrogates: bool = False, line: int = 1) -> Any:
    """Parse a JSON text; `line` is the line it begins on.

    Raises
    ------
    BadRequest
        With the position and, where there is one, the cure.
    """
    text = _decode(data, line)
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float, parse_int=_int)
        fine = not _deep(value) and (lone_surrogates or not SURROGATE.search(text) or _encodes(value))
    except json.JSONDecodeError as error:
        hint = ("for one object a line, send content-type application/x-ndjson" if error.msg == "Extra data"
                else "write it with a JSON library; a body that was cut off ends too early")
        what, place = error.msg.removesuffix(" starting at"), _place(text, error.pos, line)
        raise BadRequest(f"not JSON: {what} at {place}", hint=hint) from None
    except (_Fault, RecursionError):
        fine = False
    if not fine:
        what, at, hint = next(_faults(text, lone_surrogates), ("it cannot be read", 0, ""))
        raise BadRequest(f"not strict JSON: {what} at {_place(text, at, line)}", hint=hint)
    return value


def _decode(data: bytes, line: int) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise BadRequest(f"not JSON: a byte order mark at line {line}, byte 0", hint="send UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise BadRequest(f"not JSON: invalid UTF-8 at line {line}, byte {error.start}", hint="send UTF-8") from None


def _place(text: str, at: int, line: int) -> str:
    return f"line {line + text.count(chr(10), 0, at)}, column {at - text.rfind(chr(10), 0, at)} (character {at})"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Fault
    return value


def _constant(_: str) -> NoReturn:
    raise _Fault


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise _Fault
    return value


def _int(digits: str) -> int:
    if len(digits) > INT64_DIGITS or (value := int(digits)) not in INT64:
        raise _Fault
    return value


def _deep(value: Any) -> bool:
    """Say whether a value is nested deeper than is allowed, level by level: no recursion."""
    level = [value] if type(value) in NESTED else []
    for _ in range(DEPTH):
        level = [inner for one in level for inner in (one.values() if type(one) is dict else one) if type(inner) in NESTED]
        if not level:
            return False
    return True


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _faults(text: str, lone_surrogates: bool) -> Iterator[tuple[str, int, str]]:
    """Yield what is refused, where, and the cure."""
    keys: list[set[str]] = []  # one per open bracket
    for token in TOKEN.finditer(text):
        kind, at = token.lastgroup, token.start()
        if kind == "open":
            keys.append(set())
            if len(keys) > DEPTH:
                yield f"nesting deeper than {DEPTH}", at, "flatten it"
        elif kind == "close":
            keys = keys[:-1]
        elif kind == "number":
            if what := _number_fault(token[0]):
                yield what, at, "send null or a string in its place"
        else:
            yield from _string_faults(text, token, keys, lone_surrogates)


def _number_fault(digits: str) -> str | None:
    try:
        json.loads(digits, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except json.JSONDecodeError:
        return None  # the parser's own complaint, somewhere else
    except _Fault:
        shown = digits if len(digits) <= INT64_DIGITS + 4 else f"{digits[:INT64_DIGITS]}…"
        return f"{shown} ({'beyond 64 bits' if digits.lstrip('-').isdigit() else 'not a finite number'})"
    return None


def _string_faults(text: str, token: re.Match[str], keys: list[set[str]], lone: bool) -> Iterator[tuple[str, int, str]]:
    try:
        string = json.loads(token[0])
    except json.JSONDecodeError:
        return
    if not lone and not string.isascii() and not _encodes(string):
        yield "a lone surrogate", token.start(), "send both halves of the pair"
    if keys and COLON.match(text, token.end()):
        if string in keys[-1]:
            yield f"duplicate key {string[:80]!a}", token.start(), "name each key once"
        keys[-1].add(string)
