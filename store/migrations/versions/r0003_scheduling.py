"""What scheduling tells: a deadline that a client asked for, what admission warned of, why a batch runs or waits."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BATCH_COLUMNS: dict[str, Any] = {"deadline_at": sa.BigInteger, "warnings": sa.Text, "schedule": sa.Text}


def upgrade() -> None:
    for name, kind in BATCH_COLUMNS.items():
        op.add_column("batches", sa.Column(name, kind(), nullable=True))


def downgrade() -> None:
    for name in BATCH_COLUMNS:
        op.drop_column("batches", name)
