"""Dead letters with ids that are never given twice, a key by which a second delivery is known, and all that a retry needs."""

import sqlalchemy as sa
from alembic import op

revision = "0003_dead_letters"
down_revision = "0002_chain"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Real = sa.Double().with_variant(sa.REAL, "sqlite")


def upgrade():
    op.rename_table("dead", "dead_before")
    op.create_table(
        "dead",
        sa.Column("id", Int, primary_key=True),
        sa.Column("feed", sa.Text, nullable=False),
        sa.Column("at", Real, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("about", sa.Text),
        sa.UniqueConstraint("feed", "key"),
        sqlite_autoincrement=True,
        sqlite_strict=True)
    op.execute("INSERT INTO dead (id, feed, at, reason, raw) SELECT id, feed, at, reason, raw FROM dead_before")
    op.drop_table("dead_before")
