"""Strict JSON: every refusal names the place, and hostile text is read in linear time."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptd.errors import BadRequest
from adaptd.strictjson import loads

BAD = [
    (b'{"a": NaN}', "NaN", "line 1, column 7"),
    (b"[1,\n -Infinity]", "-Infinity", "line 2, column 2"),
    (b'{"a": "NaN", "b": 1e999}', "1e999", "column 19"),
    (b'{"a": 1, "b": {"a": 2}, "a": 3}', "duplicate key 'a'", "column 25"),
    (b"[" * 33 + b"]" * 33, "nesting deeper than 32", "column 33"),
    (b"[" * 200_000 + b"]" * 200_000, "nesting deeper than 32", "column 33"),
    (b"[9223372036854775808]", "beyond 64 bits", "column 2"),
    (b"9" * 5000, "beyond 64 bits", "column 1"),
    (b'{"text": "\\ud800"}', "lone surrogate", "column 10"),
    (b'{"\\udfff": 1}', "lone surrogate", "column 2"),
    (b"\xff\xfe{\x00}\x00", "invalid UTF-8", "byte 0"),
    (b'{"a":\n "\xe9"}', "invalid UTF-8", "line 2, byte 8"),
    ('{"a": 1}'.encode("utf-16-le"), "not JSON", "line 1, column 2"),
    (b"\xef\xbb\xbf{}", "byte order mark", "byte 0"),
    (b'{"a": 1,}', "not JSON", "line 1"),
    (b"{'a': 1}", "not JSON", "column 2"),
    (b'{"a": "\x00"}', "not JSON", "column 8"),
    (b'"open', "Unterminated string", "column 1"),
    (b"{}\n{}", "Extra data", "line 2, column 1"),
]


@pytest.mark.parametrize(("data", "what", "place"), BAD, ids=range(len(BAD)))
def test_a_fault_is_refused_with_its_place_and_a_cure(data: bytes, what: str, place: str) -> None:
    """Not JSON, or JSON that Python alone would take."""
    with pytest.raises(BadRequest) as caught:
        loads(data)
    assert what in caught.value.message
    assert place in caught.value.message and caught.value.hint
    caught.value.message.encode()


@pytest.mark.parametrize("data", [b"[" * 32 + b"]" * 32, b'"\\ud83d\\ude00"',
                                  b"[9223372036854775807, -9223372036854775808]",
                                  b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}', b'["NaN", "[[[["]', b" 1.5e3 "])
def test_what_is_just_inside_the_limits_is_read(data: bytes) -> None:
    """The limits are exact, and text inside strings is no structure."""
    assert loads(data) == json.loads(data)


def test_lone_surrogates_pass_for_who_looks_at_each_element() -> None:
    """The door rejects only the element that has one."""
    assert loads(b'[{"text": "\\ud800"}, {"text": "ok"}]', lone_surrogates=True)[1] == {"text": "ok"}


def test_a_line_of_many_is_named_by_its_number() -> None:
    """NDJSON is parsed line by line."""
    with pytest.raises(BadRequest, match="line 7, column 6"):
        loads(b'{"a": oops}'.replace(b" ", b""), line=7)


@pytest.mark.parametrize("data", [b'"' + b'\\"' * 1_000_000, b"[" + b'"a\\\\' * 300_000,
                                  b'{"a":NaN,"b":"' + b"\\" * 1_000_000])
def test_hostile_text_takes_linear_time(data: bytes) -> None:
    """Unterminated strings full of escapes are what backtracks elsewhere."""
    begin = time.perf_counter()
    with pytest.raises(BadRequest):
        loads(data)
    assert time.perf_counter() - begin < 10  # quadratic would take hours


TEXTS = st.text(st.characters(codec="utf-8"))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20)


@given(JSON_VALUES, st.booleans())
def test_sound_json_is_read_as_everybody_reads_it(value: Any, escaped: bool) -> None:
    """Strict refuses nothing that is sound."""
    assert loads(json.dumps(value, ensure_ascii=escaped).encode()) == value


@given(st.binary(max_size=200) | st.text("[]{}\",:\\u0dDeE19.- \nNaInfity", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but a bad request comes out."""
    try:
        json.dumps(loads(data), allow_nan=False, ensure_ascii=False).encode()
    except BadRequest as error:
        assert "line" in error.message
