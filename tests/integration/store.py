"""The store that these tests begin with."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection, insert

from adaptd import chain, db, registry
from adaptd import tables as t
from adaptd.paths import Paths
from adaptd.records import Item, canonical

CONFIG = '# mine\nstate = "state"\n[domains.text]\n'
EVENTS, LEARNED = 400, 40


def make(paths: Paths) -> Paths:
    """Write a store: events with labels, some learned, versions 1 to 3 (live), a checkpoint."""
    paths.state.mkdir(mode=0o700)
    paths.config.write_text(CONFIG)
    engine = db.writing_engine(paths.database)
    db.upgrade(engine)
    with engine.begin() as connection:
        domain, first = registry.create_domain(connection, "text", "encoder", "config")
        connection.execute(insert(t.store).values(key="hmac", value="ab" * 32))
        _events(connection, domain)
        for number in (2, 3):
            _version(connection, paths, first, number)
        registry.point(connection, domain, 3, first.branch, "snapshot", "me", "")
    engine.dispose()
    paths.database.chmod(0o600)
    facts = {"branch": first.branch, "seq": EVENTS, "encoder": "encoder", "version": 3, "folds": {}}
    files = {"label.sums": b"s", "label.keys": b"k", "label.head": b"h"}
    registry.publish(paths.checkpoints / "text" / str(EVENTS), files, facts)
    return paths


def _events(connection: Connection, domain: int) -> None:
    linked = chain.Chain()
    encoder = registry.inserted(connection, insert(t.encoder).values(digest="encoder"))
    for seq in range(1, EVENTS + 1):
        item = Item(payload={"text": f"text {seq}"}, source="http", key=f"k{seq}", content=os.urandom(32))
        event = {"seq": seq, "id": f"e{seq}", "domain": domain, "source": item.source, "key": item.key, "digest": item.digest,
                 "content": item.content, "payload": canonical(item.payload), "answer": None, "subject": None, "time": None,
                 "received": 1.0}
        label = {"seq": seq, "event": seq, "label": '"a"', "source": "http", "received": 1.0}
        connection.execute(insert(t.event).values(**event))
        connection.execute(insert(t.label).values(**label, held=0))
        linked.add([(seq, f"e{seq}", domain, item.columns, 1.0)], [[*label.values()]])
    linked.seal(connection)
    for seq in range(1, LEARNED + 1):
        connection.execute(insert(t.learned).values(id=seq, domain=domain, event=seq, part=0, head="label", target="a",
                                                    source="http", born=seq, holdout=0))
        connection.execute(insert(t.vector).values(event=seq, part=0, encoder=encoder, data=os.urandom(16)))


def _version(connection: Connection, paths: Paths, first: registry.Version, number: int) -> None:
    files = registry.publish(paths.versions / str(number), {"label.adapter": os.urandom(3000), "label.head": b"h" * 700})
    registry.add(connection, registry.Version(
        number=number, domain=first.domain, kind="snapshot", parent=first.number, branch=first.branch, seq=number * 100,
        encoder="encoder", config="config", files=files, metrics={}, verdict=None, actor="me", reason="", created=1.0))


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
