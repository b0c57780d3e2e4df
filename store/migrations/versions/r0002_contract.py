"""What the whole OpenAI contract keeps: repeated creates, invalid lines, retries, progress, uploads, events."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BATCH_COLUMNS: dict[str, tuple[Any, str | None]] = {
    "idempotency_key": (sa.Text, None),
    "request_digest": (sa.Text, None),
    "on_invalid_line": (sa.Text, "fail"),
    "invalid_lines": (sa.BigInteger, "0"),
    "parent_batch_id": (sa.Text, None),
    "held_at": (sa.BigInteger, None),
    "eta_at": (sa.BigInteger, None),
    "lines_per_s": (sa.Double, None),
    "tokens_per_s": (sa.Double, None),
    "quality": (sa.Text, None),
}
"""Name -> type and server default; a column without a default may be NULL."""


def upgrade() -> None:
    for name, (kind, default) in BATCH_COLUMNS.items():
        op.add_column("batches", sa.Column(name, kind(), server_default=default, nullable=default is None))
    op.create_index(
        "batches_by_idempotency_key",
        "batches",
        ["tenant", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "batches_by_request",
        "batches",
        ["tenant", "request_digest", "seq"],
        unique=False,
        sqlite_where=sa.text("request_digest IS NOT NULL"),
    )
    op.create_index(
        "batches_by_parent",
        "batches",
        ["parent_batch_id"],
        unique=False,
        sqlite_where=sa.text("parent_batch_id IS NOT NULL"),
    )
    op.add_column("shards", sa.Column("quality", sa.Text(), nullable=True))
    _create_uploads()
    _create_events()


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("file_expires_after_seconds", sa.BigInteger(), nullable=True),
        sa.Column("file_id", sa.Text(), nullable=True),
        sa.CheckConstraint("tenant <> ''", name="uploads_tenant"),
        sa.CheckConstraint("bytes >= 0", name="uploads_bytes"),
        sa.CheckConstraint("status IN ('pending', 'completed', 'cancelled', 'expired')", name="uploads_status"),
        sa.CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="uploads_file"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uploads_pending", "uploads", ["expires_at"], unique=False, sqlite_where=sa.text("status = 'pending'")
    )
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.CheckConstraint("tenant <> ''", name="upload_parts_tenant"),
        sa.CheckConstraint("bytes >= 0", name="upload_parts_bytes"),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], name="upload_parts_upload"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("blob"),
    )
    op.create_index("upload_parts_by_upload", "upload_parts", ["upload_id"], unique=False)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tenant <> ''", name="events_tenant"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_age", "events", ["created_at"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.Double(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("given_up_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("tenant <> ''", name="deliveries_tenant"),
        sa.CheckConstraint("attempts >= 0", name="deliveries_attempts"),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name="deliveries_event"),
        sa.PrimaryKeyConstraint("event_id", "target"),
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("next_attempt_at IS NOT NULL"),
    )


def downgrade() -> None:
    for table in ("deliveries", "events", "upload_parts", "uploads"):
        op.drop_table(table)
    op.drop_column("shards", "quality")
    for index in ("batches_by_parent", "batches_by_request", "batches_by_idempotency_key"):
        op.drop_index(index, table_name="batches")
    for name in reversed(BATCH_COLUMNS):
        op.drop_column("batches", name)
