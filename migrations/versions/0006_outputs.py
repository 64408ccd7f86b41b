"""Outputs: how far what is sent was acknowledged."""

import sqlalchemy as sa
from alembic import op

revision = "0006_outputs"
down_revision = "0005_tokens"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade():
    op.create_table(
        "output",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("predictions", Int, nullable=False),
        sa.Column("verdicts", Int, nullable=False),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("sent", Int, nullable=False),
        sa.Column("paused", Int, nullable=False),
        sqlite_strict=True)
