"""The first schema: journal, learned rows, versions, and what goes with them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Real = sa.Double().with_variant(sa.REAL, "sqlite")
STRICT = {"sqlite_strict": True}


def upgrade():
    op.create_table(
        "store",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        **STRICT)
    op.create_table(
        "domain",
        sa.Column("id", Int, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        **STRICT)
    op.create_table(
        "encoder",
        sa.Column("id", Int, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        **STRICT)
    journal()
    learning()
    versions()
    running()


def journal():
    op.create_table(
        "event",
        sa.Column("seq", Int, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("time", Real),
        sa.Column("received", Real, nullable=False),
        sa.UniqueConstraint("domain", "source", "key"),
        **STRICT)
    op.create_table(
        "label",
        sa.Column("seq", Int, primary_key=True, autoincrement=False),
        sa.Column("event", Int, sa.ForeignKey("event.seq"), nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("received", Real, nullable=False),
        sa.Column("held", Int, nullable=False),
        **STRICT)
    op.create_index("ix_label_event", "label", ["event"])
    op.create_table(
        "prediction",
        sa.Column("id", Int, primary_key=True),
        sa.Column("event", Int, sa.ForeignKey("event.seq"), nullable=False),
        sa.Column("version", Int, nullable=False),
        sa.Column("learned", Int, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("confidence", Real, nullable=False),
        sa.Column("at", Real, nullable=False),
        **STRICT)
    op.create_index("ix_prediction_event", "prediction", ["event"])


def learning():
    op.create_table(
        "learned",
        sa.Column("id", Int, primary_key=True, autoincrement=False),
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("event", Int, sa.ForeignKey("event.seq"), nullable=False),
        sa.Column("part", Int, nullable=False),
        sa.Column("head", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("born", Int, nullable=False),
        sa.Column("holdout", Int, nullable=False),
        **STRICT)
    op.create_index("ix_learned_event", "learned", ["event"])
    op.create_index("learned_by_birth", "learned", ["domain", "born"])
    for name in ("death", "eviction"):
        op.create_table(
            name,
            sa.Column("row", Int, sa.ForeignKey("learned.id"), primary_key=True),
            sa.Column("seq", Int, primary_key=True),
            **STRICT)
    op.create_table(
        "vector",
        sa.Column("event", Int, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("part", Int, primary_key=True),
        sa.Column("encoder", Int, sa.ForeignKey("encoder.id"), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        **STRICT)


def versions():
    op.create_table(
        "branch",
        sa.Column("id", Int, primary_key=True),
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("parent", Int, sa.ForeignKey("branch.id")),
        sa.Column("fork", Int, nullable=False),
        sa.Column("start", Int, nullable=False),
        **STRICT)
    op.create_table(
        "version",
        sa.Column("number", Int, primary_key=True, autoincrement=False),
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("parent", Int, sa.ForeignKey("version.number")),
        sa.Column("branch", Int, sa.ForeignKey("branch.id"), nullable=False),
        sa.Column("seq", Int, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("files", sa.Text, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", Real, nullable=False),
        **STRICT)
    op.create_table(
        "live",
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), primary_key=True),
        sa.Column("version", Int, sa.ForeignKey("version.number"), nullable=False),
        sa.Column("branch", Int, sa.ForeignKey("branch.id"), nullable=False),
        sa.Column("since", Real, nullable=False),
        **STRICT)
    op.create_table(
        "action",
        sa.Column("id", Int, primary_key=True),
        sa.Column("at", Real, nullable=False),
        sa.Column("seq", Int, nullable=False),
        sa.Column("domain", Int, sa.ForeignKey("domain.id")),
        sa.Column("what", sa.Text, nullable=False),
        sa.Column("before", Int),
        sa.Column("after", Int),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        **STRICT)


def running():
    op.create_table(
        "hold",
        sa.Column("domain", Int, sa.ForeignKey("domain.id"), primary_key=True),
        sa.Column("what", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("since", Real, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        **STRICT)
    op.create_table(
        "feed",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("cursor", sa.Text),
        sa.Column("paused", Int, nullable=False),
        **STRICT)
    op.create_table(
        "dead",
        sa.Column("id", Int, primary_key=True),
        sa.Column("feed", sa.Text, nullable=False),
        sa.Column("at", Real, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        **STRICT)


def downgrade():
    for name in ("dead", "feed", "hold", "action", "live", "version", "branch", "vector", "eviction", "death",
                 "learned", "prediction", "label", "event", "encoder", "domain", "store"):
        op.drop_table(name)
