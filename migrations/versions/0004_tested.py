"""What each label told before it was learned, so that trust and calibration of any moment can be had again."""

import sqlalchemy as sa
from alembic import op

revision = "0004_tested"
down_revision = "0003_dead_letters"
branch_labels = None
depends_on = None

Int = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade():
    op.create_table(
        "tested",
        sa.Column("row", Int, sa.ForeignKey("learned.id"), primary_key=True),
        sa.Column("encoder", Int, sa.ForeignKey("encoder.id"), nullable=False),
        sa.Column("told", sa.Text, nullable=False),
        sqlite_strict=True)
