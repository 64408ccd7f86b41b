"""The chain of salted commitments over the journal, built over what is in it already."""

import hashlib
import json
import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0002_chain"
down_revision = "0001"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")
BATCH = 1000
EVENT = ("seq", "id", "domain", "source", "key", "digest", "content", "payload", "answer", "subject", "time", "received")
LABEL = ("seq", "event", "label", "source", "received")
NEXT = sa.text("SELECT seq FROM event WHERE seq > :after UNION SELECT seq FROM label WHERE seq > :after ORDER BY 1 LIMIT :batch")
ROWS = "SELECT * FROM {} WHERE seq > :after AND seq <= :last"


def upgrade():
    op.create_table(
        "chain",
        sa.Column("seq", Int, primary_key=True, autoincrement=False),
        sa.Column("entry", Int, nullable=False),
        sa.Column("salt", sa.LargeBinary),
        sa.Column("commitment", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_strict=True)
    op.add_column("version", sa.Column("chain", sa.Text))
    entries, forgotten = link(op.get_bind())
    begun = json.dumps({"entries": entries, "forgotten": forgotten, "at": time.time()})
    op.get_bind().execute(sa.text("INSERT INTO store (key, value) VALUES ('chain', :begun)"), {"begun": begun})


def link(connection):
    """Build the chain, batch by batch; return how many entries it has, and how many were forgotten before."""
    chain = sa.table("chain", *(sa.column(name) for name in ("seq", "entry", "salt", "commitment", "hash")))
    entry, forgotten, head, after = 0, 0, bytes(32), 0
    while seqs := connection.execute(NEXT, {"after": after, "batch": BATCH}).scalars().all():
        span = {"after": after, "last": seqs[-1]}
        events, labels = ({row["seq"]: row for row in connection.execute(sa.text(ROWS.format(table)), span).mappings()}
                          for table in ("event", "label"))
        links = []
        for seq in seqs:
            entry += 1
            gone = seq in events and events[seq]["source"] == ""
            forgotten += gone
            salt = secrets.token_bytes(16)
            committed = hashlib.sha256(salt + content(events.get(seq), labels.get(seq))).digest()
            head = hashlib.sha256(head + b"%d %d " % (entry, seq) + committed).digest()
            links.append({"seq": seq, "entry": entry, "salt": None if gone else salt, "commitment": committed, "hash": head})
        connection.execute(chain.insert(), links)
        after = seqs[-1]
    return entry, forgotten


def content(event, label):
    """Return an entry's text, as `adaptd.chain` makes it."""
    return json.dumps([plain(EVENT, event), plain(LABEL, label)], separators=(",", ":")).encode()


def plain(names, row):
    return None if row is None else [row[name].hex() if isinstance(row[name], bytes) else row[name] for name in names]


def downgrade():
    op.drop_table("chain")
    op.drop_column("version", "chain")
    op.execute("DELETE FROM store WHERE key = 'chain'")
