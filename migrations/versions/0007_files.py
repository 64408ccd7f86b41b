"""The versions' files, where the store is in PostgreSQL: whoever takes it over needs nobody's folder."""

import sqlalchemy as sa
from alembic import op

revision = "0007_files"
down_revision = "0006_outputs"
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "file",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_strict=True)


def downgrade():
    op.drop_table("file")
