"""Exports: what cannot be reached is said in words."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from adaptd.errors import CannotStart
from adaptd.export import hf, version
from adaptd.export.mlflow import Registry


def test_a_folder_is_for_its_user_alone_and_noted_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(config=SimpleNamespace(num_labels=2), keys=[])
    made = SimpleNamespace(version=SimpleNamespace(number=3), model=model, encoder=None)
    monkeypatch.setattr(version, "load", lambda *_: made)
    monkeypatch.setattr(hf, "write", lambda model, encoder, folder: (folder / "weights").touch())
    folder, noted = tmp_path / "new" / "model", []
    before = os.umask(0o022)
    try:
        version.export(None, None, "text", 3, "hf", folder, None,  # type: ignore[arg-type]
                       note=lambda number, to: noted.append((number, to, folder.exists())))
    finally:
        os.umask(before)
    assert noted == [(3, str(folder), False)]
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "weights").exists()


def test_a_registry_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        registry = Registry(f"http://127.0.0.1:{taken.getsockname()[1]}", "adaptd-text")
        for ask in (registry.entered, lambda: registry.point("1")):
            with pytest.raises(CannotStart, match="MLflow: ") as refused:
                ask()
            assert refused.value.field == "uri"
