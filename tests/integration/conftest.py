"""A stopped store with events, labels, learned rows and versions, as a daemon leaves it; made without a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptd.paths import Paths
from tests.integration import journalled as journalled_store
from tests.integration.store import make


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """Return a store that nobody changes."""
    folder = tmp_path_factory.mktemp("kept")
    return make(Paths(config=folder / "adaptd.toml", state=folder / "state"))


@pytest.fixture
def store(kept: Paths, tmp_path: Path) -> Paths:
    """Return a copy of that store for one test."""
    shutil.copytree(kept.config.parent, tmp_path / "store")
    return Paths(config=tmp_path / "store" / "adaptd.toml", state=tmp_path / "store" / "state")


@pytest.fixture(scope="session")
def _journalled(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("journalled")
    return journalled_store.write(Paths(config=folder / "adaptd.toml", state=folder))


@pytest.fixture
def journalled(_journalled: Paths, tmp_path: Path) -> Paths:
    """Return a store that a journal has written, for one test."""
    shutil.copytree(_journalled.state, tmp_path / "store")
    return Paths(config=tmp_path / "store/adaptd.toml", state=tmp_path / "store")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 200 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=200k,mode=700 tmpfs {folder} 2>/dev/null"):
        pytest.skip("needs a tmpfs of its own")
    yield folder
    os.system(f"umount {folder}")
