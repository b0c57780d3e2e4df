"""The first tables: files, batches, shards, segments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "deleted_files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tenant <> ''", name="deleted_files_tenant"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("deleted_files_by_age", "deleted_files", ["deleted_at"], unique=False)
    op.create_table(
        "files",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=True),
        sa.CheckConstraint("tenant <> ''", name="files_tenant"),
        sa.CheckConstraint("bytes >= 0", name="files_bytes"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("blob"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "files_by_expiry", "files", ["expires_at"], unique=False, sqlite_where=sa.text("expires_at IS NOT NULL")
    )
    op.create_index("files_by_purpose", "files", ["tenant", "purpose", "seq"], unique=False)
    op.create_index("files_by_tenant", "files", ["tenant", "seq"], unique=False)
    op.create_table(
        "batches",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("reading_file_id", sa.Text(), nullable=True),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("on_deadline", sa.Text(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("output_expires_after_seconds", sa.BigInteger(), nullable=True),
        sa.Column("in_progress_at", sa.BigInteger(), nullable=True),
        sa.Column("finalizing_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("expired_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelling_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("deadline_missed_at", sa.BigInteger(), nullable=True),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("errors", sa.Text(), nullable=True),
        sa.Column("errors_total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.CheckConstraint("(status = 'cancelled') = (cancelled_at IS NOT NULL)", name="batches_cancelled_at"),
        sa.CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="batches_completed_at"),
        sa.CheckConstraint("(status = 'expired') = (expired_at IS NOT NULL)", name="batches_expired_at"),
        sa.CheckConstraint("(status = 'failed') = (failed_at IS NOT NULL)", name="batches_failed_at"),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'completed', 'expired', 'failed')) = (reading_file_id IS NULL)",
            name="batches_read_until_they_end",
        ),
        sa.CheckConstraint("on_deadline IN ('expire', 'continue')", name="batches_on_deadline"),
        sa.CheckConstraint("paused_at IS NULL OR status = 'in_progress'", name="batches_paused_in_progress"),
        sa.CheckConstraint("status <> 'cancelling' OR cancelling_at IS NOT NULL", name="batches_cancelling_at"),
        sa.CheckConstraint("status <> 'expired' OR on_deadline = 'expire'", name="batches_expire_only_if_told"),
        sa.CheckConstraint("status <> 'finalizing' OR finalizing_at IS NOT NULL", name="batches_finalizing_at"),
        sa.CheckConstraint("status <> 'in_progress' OR in_progress_at IS NOT NULL", name="batches_in_progress_at"),
        sa.CheckConstraint(
            "status IN ('validating', 'in_progress', 'finalizing', 'cancelling', "
            "'completed', 'failed', 'expired', 'cancelled')",
            name="batches_status",
        ),
        sa.CheckConstraint("tenant <> ''", name="batches_tenant"),
        sa.CheckConstraint("(paused_at IS NULL) = (pause_reason IS NULL)", name="batches_pause_reason"),
        sa.CheckConstraint("completed >= 0 AND failed >= 0 AND completed + failed <= total", name="batches_counts"),
        sa.CheckConstraint("input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0", name="batches_usage"),
        sa.CheckConstraint(
            "reading_file_id IS NULL OR reading_file_id = input_file_id", name="batches_read_their_input"
        ),
        sa.ForeignKeyConstraint(["reading_file_id"], ["files.id"], name="batches_reading_file"),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("batches_by_reading_file", "batches", ["reading_file_id"], unique=False)
    op.create_index("batches_by_tenant", "batches", ["tenant", "seq"], unique=False)
    op.create_index(
        "batches_open", "batches", ["status", "seq"], unique=False, sqlite_where=sa.text("reading_file_id IS NOT NULL")
    )
    op.create_table(
        "shards",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("shard_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("completed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("(state = 'leased') = (holder IS NOT NULL)", name="shards_holder"),
        sa.CheckConstraint("(state = 'leased') = (lease_expires_at IS NOT NULL)", name="shards_lease_expires_at"),
        sa.CheckConstraint("generation >= 0 AND (state = 'ready' OR generation > 0)", name="shards_generation"),
        sa.CheckConstraint("state <> 'sealed' OR completed + failed = stop - start", name="shards_sealed_when_done"),
        sa.CheckConstraint("state IN ('ready', 'leased', 'sealed')", name="shards_state"),
        sa.CheckConstraint("tenant <> ''", name="shards_tenant"),
        sa.CheckConstraint(
            "completed >= 0 AND failed >= 0 AND completed + failed <= stop - start", name="shards_counts"
        ),
        sa.CheckConstraint("input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0", name="shards_usage"),
        sa.CheckConstraint("shard_no >= 0 AND start >= 0 AND stop > start", name="shards_range"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="shards_batch"),
        sa.PrimaryKeyConstraint("batch_id", "shard_no"),
    )
    op.create_index(
        "shards_leased",
        "shards",
        ["holder", "lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "shards_leases_by_expiry",
        "shards",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "shards_open", "shards", ["batch_id", "shard_no"], unique=False, sqlite_where=sa.text("state <> 'sealed'")
    )
    op.create_table(
        "segments",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("shard_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("valid_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("tenant <> ''", name="segments_tenant"),
        sa.CheckConstraint("generation > 0", name="segments_generation"),
        sa.CheckConstraint("valid_bytes >= 0", name="segments_valid_bytes"),
        sa.ForeignKeyConstraint(
            ["batch_id", "shard_no"], ["shards.batch_id", "shards.shard_no"], name="segments_shard"
        ),
        sa.PrimaryKeyConstraint("batch_id", "shard_no", "generation"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("segments")
    op.drop_table("shards")
    op.drop_table("batches")
    op.drop_table("files")
    op.drop_table("deleted_files")
