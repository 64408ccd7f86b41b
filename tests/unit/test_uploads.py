"""How bytes come in: as base64, or as a path below an allowed folder and nowhere else."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from adaptd.errors import BadPayload
from adaptd.records import Blob, canonical
from adaptd.uploads import Uploads


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "a.bin").write_bytes(b"abc")
    (allowed / "large.bin").write_bytes(bytes(11))
    (tmp_path / "secret").write_bytes(b"secret")
    (allowed / "link").symlink_to(tmp_path / "secret")
    (allowed / "circle").symlink_to(allowed / "circle")
    os.mkfifo(allowed / "pipe")
    return Uploads(10, (allowed,))


def test_bytes_come_as_base64_or_as_a_path(uploads: Uploads) -> None:
    inside = str(uploads.folders[0] / "a.bin")
    for one in ({"$base64": "YWJj"}, {"$path": "a.bin"}, {"$path": inside}):
        taken = uploads.taken({"image": one, "note": "x"})
        assert taken == {"image": Blob(data=b"abc"), "note": "x"}
        assert uploads.are_in({"image": one})


def test_a_payload_is_written_with_the_digest_in_place_of_the_bytes(uploads: Uploads) -> None:
    blob = Blob(data=b"abc")
    assert canonical({"image": blob}) == '{"image":{"$blob":"' + blob.sha256 + '"}}'


@pytest.mark.parametrize("value", [
    {"$base64": "YWJ"}, {"$base64": "YW Jj"}, {"$base64": ""}, {"$base64": 3}, {"$base64": "é"}, {"$base64": "YWJj", "x": 1},
    {"$base64": base64.b64encode(bytes(11)).decode()}, {"$base64": "A" * 1000}, {"$blob": "0" * 64}, {"$path": "large.bin"},
    {"$path": "../secret"}, {"$path": "link"}, {"$path": "circle"}, {"$path": "pipe"}, {"$path": "."}, {"$path": "none"},
    {"$path": ""}, {"$path": "a\0b"}, {"$path": "/etc/passwd"}, {"$path": "x" * 5000}])
def test_anything_else_is_refused_with_field_and_cure(uploads: Uploads, value: dict[str, Any]) -> None:
    with pytest.raises(BadPayload) as refused:
        uploads.taken({"image": value})
    assert refused.value.field == "image" and refused.value.hint and "secret" not in refused.value.message


def test_without_a_folder_no_path_is_read() -> None:
    with pytest.raises(BadPayload, match="no such file"):
        Uploads(10).taken({"image": {"$path": "/etc/passwd"}})


def test_other_objects_are_left_as_they_are(uploads: Uploads) -> None:
    fields = {"text": "x", "meta": {"a": {"$path": "deeper"}}}
    assert uploads.taken(fields) is fields and not uploads.are_in(fields)
