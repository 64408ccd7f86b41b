"""Fixtures that several folders share, and what the markers mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from adaptd import db


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting:
        import torch

        if not torch.cuda.is_available():
            for item in wanting:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def missing(service: str) -> None:
    """Skip a test whose service is not there; with CI set it fails instead."""
    if os.environ.get("CI"):
        pytest.fail(f"{service} is not there, and CI must have it")
    pytest.skip(f"{service} is not there")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """Return where a store may be: a file, then a database of its own."""
    if request.param == "sqlite":
        yield tmp_path / "adaptd.db"
    else:
        from tests.postgres import database

        with database() as url:
            yield url


@pytest.fixture
def engine(where: Path | str) -> Iterator[Engine]:
    """Return the writing engine of a fresh store at this adaptd's schema."""
    made = db.writing_engine(where)
    db.upgrade(made)
    yield made
    made.dispose()
