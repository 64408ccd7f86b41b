"""The bytes of images and sounds, by their digest, and which events brought them."""

import sqlalchemy as sa
from alembic import op

revision = "0008_blobs"
down_revision = "0007_files"
branch_labels = None
depends_on = None

INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade():
    op.create_table(
        "blob",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_strict=True)
    op.create_table(
        "attached",
        sa.Column("event", INT, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("digest", sa.Text, sa.ForeignKey("blob.digest"), primary_key=True, index=True),
        sqlite_strict=True)


def downgrade():
    op.drop_table("attached")
    op.drop_table("blob")
