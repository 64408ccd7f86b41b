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
def database(of: str | None = None) -> Iterator[str]:
    """Make a database, empty or a copy of another that nobody is in, and give its URL; it goes at the end, whoever is in it."""
    if absent():
        missing(f"PostgreSQL at {SERVER}")
    name = f"adaptd_{secrets.token_hex(6)}"
    with psycopg.connect(SERVER, autocommit=True) as server:
        like = LIKE if of is None else f"TEMPLATE {of.rpartition('/')[2]}"
        server.execute(f"CREATE DATABASE {name} {like}".encode())
        try:
            yield SERVER.rpartition("/")[0] + f"/{name}"
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def analyse(url: str) -> None:
    """Take the statistics that the server takes by itself, sooner or later."""
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("ANALYZE")


def files(url: str) -> dict[str, bytes]:
    """Return the files of a database's tables, indexes and statistics as they are on the server's disk, to a superuser."""
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("CHECKPOINT")
        named = server.execute("SELECT pg_relation_filepath(c.oid) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
                               " AND c.relkind IN ('r', 'i') OR c.relname = 'pg_statistic'"
                               " OR c.relname LIKE 'pg_toast_%' AND c.relkind = 't'").fetchall()
        read = "SELECT pg_read_binary_file(%s, 0, 100000000, true)"
        return {name: (server.execute(read, (name,)).fetchone() or (b"",))[0] or b"" for (name,) in named if name}
