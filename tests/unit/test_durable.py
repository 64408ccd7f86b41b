"""What is written so that a crash at any step leaves it whole: a version's folder that gets more files, the token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adaptd import registry
from adaptd.host import read_token


@pytest.mark.parametrize("fails", ["fsync", "rename"])
def test_a_candidate_stays_whole_when_its_promotion_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               fails: str) -> None:
    folder = tmp_path / "7"
    named = registry.publish(folder, {"label.adapter": b"trained"})

    def broken(*_: object) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, broken)
        with pytest.raises(OSError, match="cut off"):
            registry.complete(folder, named, {"label.adapter": b"as served", "label.head": b"solved"})
    assert registry.read(folder, named) == {"label.adapter": b"trained"}

    both = registry.complete(folder, named, {"label.adapter": b"as served", "label.head": b"solved"})
    assert registry.read(folder, both) == {"label.adapter": b"trained", "label.head": b"solved"}
    assert sorted(path.name for path in folder.iterdir()) == ["label.adapter", "label.head"]


def test_a_token_that_a_crash_left_empty_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    token = read_token(file)
    assert len(token) > 30 and read_token(file) == token
    assert file.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [file]
