"""The migrations make exactly the tables of adaptd/tables.py, from any state, and never touch a newer store."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from adaptd import db, tables
from adaptd.errors import SchemaMismatch


def schema(engine: Engine) -> dict[str, str]:
    """Return the SQL of every table and index, spaces apart."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        return {name: " ".join(sql.split()) for name, sql in rows if name != "alembic_version"}


def test_an_empty_store_comes_to_the_tables_of_the_code(engine: Engine) -> None:
    wanted = create_engine("sqlite://")
    tables.metadata.create_all(wanted)
    made, named = schema(engine), schema(wanted)
    assert set(made) == set(named), f"tables.py and migrations differ in {sorted(set(made) ^ set(named))}"
    for name in named:
        here, there = set(named[name].split(", ")), set(made[name].split(", "))
        assert made[name] == named[name], f"{name}: only tables.py has {here - there}, only migrations {there - here}"


def test_every_table_is_strict(engine: Engine) -> None:
    with engine.connect() as connection:
        query = text("SELECT name FROM pragma_table_list WHERE schema = 'main' AND NOT strict")
        assert set(connection.execute(query).scalars()) <= {"alembic_version", "sqlite_schema", "sqlite_sequence"}


def test_upgrade_says_from_where_to_where_and_again_changes_nothing(tmp_path: Path) -> None:
    engine = db.writing_engine(tmp_path / "adaptd.db")
    assert db.upgrade(engine) == (None, db.head_revision())
    before = schema(engine)
    assert db.upgrade(engine) == (db.head_revision(), db.head_revision())
    assert schema(engine) == before
    engine.dispose()


def test_an_interrupted_upgrade_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = db.writing_engine(tmp_path / "adaptd.db")
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


def test_a_store_with_data_keeps_it(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(tables.domain.insert().values(name="text"))
    db.upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(tables.domain.select()).one().name == "text"
