"""With which requests a batch shares answers, and how many lines got one that way."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("batches", sa.Column("reuse", sa.Text(), server_default="off", nullable=False))
    for table in ("batches", "shards"):
        op.add_column(table, sa.Column("reused", sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    for table in ("shards", "batches"):
        op.drop_column(table, "reused")
    op.drop_column("batches", "reuse")
