"""The tables. SQLite makes them STRICT; every type here is one that STRICT and PostgreSQL both take.

`seq` orders everything and is given by the writer, never by a database sequence. Rows of `learned` are never
rewritten: a row is alive in a lineage at s when its birth lies in the lineage and no death of it does
(`adaptd.rows.alive`). So a rollback is a new branch, O(1), and can itself be rolled back.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
Int = BigInteger().with_variant(Integer, "sqlite")
Real: Any = Double().with_variant(REAL, "sqlite")
STRICT: Any = {"sqlite_strict": True}
FORGOTTEN = ""  # the source of an event that was forgotten; its row stays, empty, so that a second delivery is recognised

store = Table("store", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False), **STRICT)

domain = Table(
    "domain", metadata,
    Column("id", Int, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    **STRICT)

event = Table(
    "event", metadata,
    Column("seq", Int, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("domain", Int, ForeignKey("domain.id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("key", Text),  # the client's id
    Column("digest", LargeBinary, nullable=False),  # of the payload: same key, other digest = conflict
    Column("content", LargeBinary, nullable=False),  # HMAC of the normalised content: holdout, duplicates
    Column("payload", Text, nullable=False),
    Column("answer", Text),  # the incumbent's
    Column("subject", Text),
    Column("time", Real),
    Column("received", Real, nullable=False),
    UniqueConstraint("domain", "source", "key"),
    **STRICT)

blob = Table(  # the bytes of an image or a sound; `adaptd.blobs`
    "blob", metadata,
    Column("digest", Text, primary_key=True),  # sha256, by which payloads name it
    Column("data", LargeBinary, nullable=False),
    **STRICT)

attached = Table(  # which events brought it: it goes with the last one
    "attached", metadata,
    Column("event", Int, ForeignKey("event.seq"), primary_key=True),
    Column("digest", Text, ForeignKey("blob.digest"), primary_key=True, index=True),
    **STRICT)

label = Table(  # with the event (same seq) or later (its own seq)
    "label", metadata,
    Column("seq", Int, primary_key=True, autoincrement=False),
    Column("event", Int, ForeignKey("event.seq"), nullable=False, index=True),
    Column("label", Text, nullable=False),  # JSON
    Column("source", Text, nullable=False),
    Column("received", Real, nullable=False),
    Column("held", Int, nullable=False),  # 1: waits for `resume`, or a trial; 2: the domain refused it then; 3: dropped
    **STRICT)

chain = Table(  # one row an entry of the journal; `adaptd.chain` has the formulas
    "chain", metadata,
    Column("seq", Int, primary_key=True, autoincrement=False),
    Column("entry", Int, nullable=False),  # 1, 2, 3 …: seqs have gaps, entries have none
    Column("salt", LargeBinary),  # null: forgotten
    Column("commitment", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    **STRICT)

learned = Table(
    "learned", metadata,
    Column("id", Int, primary_key=True, autoincrement=False),
    Column("domain", Int, ForeignKey("domain.id"), nullable=False),
    Column("event", Int, ForeignKey("event.seq"), nullable=False, index=True),
    Column("part", Int, nullable=False),  # one text has one part; a tagged sentence one per token
    Column("head", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("source", Text, nullable=False),  # who taught it
    Column("born", Int, nullable=False),
    Column("holdout", Int, nullable=False),  # kept for judging: no gradient uses it
    Index("learned_by_birth", "domain", "born"),
    **STRICT)

death = Table(  # from the learner's sums and from retrieval
    "death", metadata,
    Column("row", Int, ForeignKey("learned.id"), primary_key=True),
    Column("seq", Int, primary_key=True),
    **STRICT)

eviction = Table(  # from retrieval only: the memory stays bounded, the sums keep the row
    "eviction", metadata,
    Column("row", Int, ForeignKey("learned.id"), primary_key=True),
    Column("seq", Int, primary_key=True),
    **STRICT)

tested = Table(  # what a row told before it was learned; `adaptd.tested`
    "tested", metadata,
    Column("row", Int, ForeignKey("learned.id"), primary_key=True),
    Column("encoder", Int, ForeignKey("encoder.id"), nullable=False),  # whose vectors were put to the memory
    Column("told", Text, nullable=False),  # JSON
    **STRICT)

vector = Table(  # encoded once; float16, little-endian
    "vector", metadata,
    Column("event", Int, ForeignKey("event.seq"), primary_key=True),
    Column("part", Int, primary_key=True),
    Column("encoder", Int, ForeignKey("encoder.id"), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    **STRICT)

encoder = Table(
    "encoder", metadata,
    Column("id", Int, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    **STRICT)

prediction = Table(
    "prediction", metadata,
    Column("id", Int, primary_key=True),
    Column("event", Int, ForeignKey("event.seq"), nullable=False, index=True),
    Column("version", Int, nullable=False),
    Column("learned", Int, nullable=False),  # the seq that the answer had learned
    Column("labels", Text, nullable=False),  # JSON, one per head
    Column("confidence", Real, nullable=False),
    Column("at", Real, nullable=False),
    **STRICT)

branch = Table(  # state(branch, s) = births in (start, s] + state(parent, fork)
    "branch", metadata,
    Column("id", Int, primary_key=True),
    Column("domain", Int, ForeignKey("domain.id"), nullable=False),
    Column("parent", Int, ForeignKey("branch.id")),
    Column("fork", Int, nullable=False),
    Column("start", Int, nullable=False),
    **STRICT)

version = Table(
    "version", metadata,
    Column("number", Int, primary_key=True, autoincrement=False),  # unique in the store
    Column("domain", Int, ForeignKey("domain.id"), nullable=False),
    Column("kind", Text, nullable=False),  # initial, snapshot, saved, candidate, moment, reinstated
    Column("parent", Int, ForeignKey("version.number")),
    Column("branch", Int, ForeignKey("branch.id"), nullable=False),
    Column("seq", Int, nullable=False),
    Column("encoder", Text, nullable=False),  # digest
    Column("config", Text, nullable=False),  # digest
    Column("files", Text, nullable=False),  # JSON: {name: sha256}
    Column("metrics", Text, nullable=False),  # JSON
    Column("verdict", Text),  # JSON, candidates only
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created", Real, nullable=False),
    Column("chain", Text),  # JSON: the chain's head then; null in versions that are older than the chain
    **STRICT)

file = Table(  # of versions, by sha256; on PostgreSQL alone (`adaptd.mirror`): on SQLite the folder has them
    "file", metadata,
    Column("digest", Text, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    **STRICT)

live = Table(  # the pointer: one row a domain, moved in one transaction
    "live", metadata,
    Column("domain", Int, ForeignKey("domain.id"), primary_key=True),
    Column("version", Int, ForeignKey("version.number"), nullable=False),
    Column("branch", Int, ForeignKey("branch.id"), nullable=False),
    Column("since", Real, nullable=False),
    **STRICT)

action = Table(  # who or what changed something, when, from what to what, why
    "action", metadata,
    Column("id", Int, primary_key=True),
    Column("at", Real, nullable=False),
    Column("seq", Int, nullable=False),
    Column("domain", Int, ForeignKey("domain.id")),
    Column("what", Text, nullable=False),
    Column("before", Int),
    Column("after", Int),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON
    **STRICT)

hold = Table(
    "hold", metadata,
    Column("domain", Int, ForeignKey("domain.id"), primary_key=True),
    Column("what", Text, primary_key=True),  # learning, adaptation; quarantine: why a source's learning is on hold
    Column("source", Text, primary_key=True),  # "" = all
    Column("since", Real, nullable=False),
    Column("reason", Text, nullable=False),
    **STRICT)

feed = Table(
    "feed", metadata,
    Column("name", Text, primary_key=True),
    Column("cursor", Text),
    Column("paused", Int, nullable=False),
    **STRICT)

output = Table(  # how far what is sent was acknowledged; `adaptd.publish`
    "output", metadata,
    Column("name", Text, primary_key=True),
    Column("predictions", Int, nullable=False),  # the last prediction's id
    Column("verdicts", Int, nullable=False),  # the last action's id
    Column("told", Text, nullable=False),  # JSON: the problems that it knows of, the events it was asked about
    Column("sent", Int, nullable=False),  # messages, in all
    Column("paused", Int, nullable=False),
    **STRICT)

dead = Table(  # what a feed gave and was not taken, in the same transaction as the offset
    "dead", metadata,
    Column("id", Int, primary_key=True),  # never given twice: an operator's list stays true
    Column("feed", Text, nullable=False),
    Column("at", Real, nullable=False),
    Column("reason", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("key", Text),  # a second delivery of the same has the same
    Column("about", Text),  # JSON: what is needed beside `raw` to read it again
    UniqueConstraint("feed", "key"),
    sqlite_autoincrement=True,
    **STRICT)

token = Table(  # who may come in over TCP, beside whoever has the file `token`; `adaptd.tokens`
    "token", metadata,
    Column("id", Int, primary_key=True),
    Column("name", Text, nullable=False, unique=True),  # also of one that has ended: the log names tokens by it
    Column("digest", LargeBinary, nullable=False),  # SHA-256; the token itself is kept nowhere
    Column("roles", Text, nullable=False),  # JSON
    Column("domains", Text),  # JSON; null: all
    Column("source", Text),  # the only one that it speaks for
    Column("created", Real, nullable=False),
    Column("creator", Text, nullable=False),
    Column("expires", Real),
    Column("revoked", Real),
    Column("used", Real),  # last; kept once a minute
    **STRICT)
