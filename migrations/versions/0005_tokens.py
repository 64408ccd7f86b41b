"""Tokens: who may come in over TCP, with which roles, domains and source."""

import sqlalchemy as sa
from alembic import op

revision = "0005_tokens"
down_revision = "0004_tested"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")
Real = sa.Double().with_variant(sa.REAL, "sqlite")


def upgrade():
    op.create_table(
        "token",
        sa.Column("id", Int, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("domains", sa.Text),
        sa.Column("source", sa.Text),
        sa.Column("created", Real, nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("expires", Real),
        sa.Column("revoked", Real),
        sa.Column("used", Real),
        sqlite_strict=True)
