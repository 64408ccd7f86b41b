"""A PostgreSQL server that runs beside the tests, and a database of its own for each store."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from tests.conftest import missing

SERVER = os.environ.get("POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
# Not "C": what depends on the order of texts, and must not, shows.
LIKE = "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"


@functools.cache
def absent() -> str:
    """Say why there is no server, in nothing where there is one."""
    try:
        psycopg.connect(SERVER, connect_timeout=5).close()
        return ""
    except psycopg.OperationalError as error:
        return str(error)


def unlocked(url: str) -> Engine:
    """Return an engine that writes and does not hold the store: for what is done beside adaptd."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)


@contextmanager
def database() -> Iterator[str]:
    """Make a database and give its URL; it goes at the end, whoever is still in it."""
    if absent():
        missing(f"PostgreSQL at {SERVER}")
    name = f"adaptd_{secrets.token_hex(6)}"
    with psycopg.connect(SERVER, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} {LIKE}".encode())
        try:
            yield SERVER.rpartition("/")[0] + f"/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
