"""The migrations make exactly the tables of adaptd/tables.py, from any state, and never touch a newer store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Inspector, create_engine, inspect, text

from adaptd import db, tables
from adaptd.errors import SchemaMismatch


def schema(engine: Engine) -> dict[str, Any]:
    """Return what a database knows of every table: columns, keys, indexes, strictness; not in which order columns came."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            there = inspect(connection)
            return {name: _reflected(there, name) for name in there.get_table_names() if name != "alembic_version"}
        names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
        return {name: _table(connection, name) for name in names if name != "alembic_version"}


def _reflected(there: Inspector, name: str) -> dict[str, Any]:
    columns = {one["name"]: (repr(one["type"]), one["nullable"], "nextval" in (one["default"] or ""))
               for one in there.get_columns(name)}
    keys = {(*one["constrained_columns"], one["referred_table"], *one["referred_columns"])
            for one in there.get_foreign_keys(name)}
    indexes = {(tuple(one["column_names"]), one["unique"]) for one in there.get_indexes(name)}
    return {"columns": columns, "foreign keys": keys, "indexes": indexes,
            "primary key": there.get_pk_constraint(name)["constrained_columns"]}


def _table(connection: Connection, name: str) -> dict[str, Any]:
    def rows(pragma: str, of: str = name) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM pragma_{pragma}(:of)"), {"of": of}).mappings()]

    columns = {row["name"]: (row["type"], row["notnull"], row["dflt_value"], row["pk"]) for row in rows("table_xinfo")}
    keys = {(row["from"], row["table"], row["to"], row["on_delete"]) for row in rows("foreign_key_list")}
    indexes = {(row["name"] if row["origin"] == "c" else row["origin"], row["unique"], row["partial"],
                tuple(one["name"] for one in rows("index_info", row["name"]))) for row in rows("index_list")}
    strict = connection.scalar(text("SELECT strict FROM pragma_table_list WHERE name = :of"), {"of": name})
    return {"columns": columns, "foreign keys": keys, "indexes": indexes, "strict": strict}


def test_an_empty_store_comes_to_the_tables_of_the_code(engine: Engine) -> None:
    made = schema(engine)
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            for name in made:
                connection.execute(text(f'DROP TABLE "{name}" CASCADE'))
        wanted = engine
    else:
        wanted = create_engine("sqlite://")
    tables.metadata.create_all(wanted)
    named = schema(wanted)
    assert set(made) == set(named), f"tables.py and migrations differ in {sorted(set(made) ^ set(named))}"
    for name, wanted_table in named.items():
        for what, wanted_part in wanted_table.items():
            assert made[name][what] == wanted_part, f"{what} of {name}"


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
def test_every_table_is_strict(engine: Engine) -> None:
    with engine.connect() as connection:
        query = text("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict")
        assert set(connection.execute(query).scalars()) <= {"alembic_version", "sqlite_schema", "sqlite_sequence"}


def test_upgrade_says_from_where_to_where_and_again_changes_nothing(where: Path | str) -> None:
    engine = db.writing_engine(where)
    assert db.upgrade(engine) == (None, db.head_revision())
    before = schema(engine)
    assert db.upgrade(engine) == (db.head_revision(), db.head_revision())
    assert schema(engine) == before
    engine.dispose()


def test_an_interrupted_first_upgrade_leaves_nothing(where: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = db.writing_engine(where)
    real, done = db.command.upgrade, []

    def interrupted(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]
        done.append(True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(db.command, "upgrade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            db.upgrade(engine)
    assert done and schema(engine) == {}
    assert db.upgrade(engine) == (None, db.head_revision())
    engine.dispose()


def test_a_newer_store_is_refused_and_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = schema(engine)
    with pytest.raises(SchemaMismatch, match="'9999' is newer") as refused:
        db.upgrade(engine)
    assert "newer one" in refused.value.hint
    assert schema(engine) == before
