"""The tables, and every rule about them that a database can keep by itself.

Rows per file, batch, shard and segment, never per line. A rule that stands here cannot be broken by any caller, by a
second process on the same file, or by hand; the Python around it only gives the better message. Changing a table means
a new migration as well: `tests/store/test_migrations.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from store.records import TERMINAL_STATUSES, BatchStatus, OnDeadline, OnInvalidLine, Reuse, ShardState, UploadStatus

metadata = sa.MetaData()


def _one_of(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


def _same(left: str, right: str) -> str:
    """Both hold or neither does."""
    return f"({left}) = ({right})"


def _check(sql: str, name: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(sql, name=name)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


SHARD_OPEN = "state <> 'sealed'"
SHARD_LEASED = "state = 'leased'"
BATCH_OPEN = "reading_file_id IS NOT NULL"
"""Conditions of partial indexes. SQLite uses such an index only where the query repeats the condition literally."""

files = sa.Table(
    "files",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("blob", sa.Text, nullable=False, unique=True),
    sa.Column("summary", sa.Text),
    _check("tenant <> ''", "files_tenant"),
    _check("bytes >= 0", "files_bytes"),
    sa.Index("files_by_tenant", "tenant", "seq"),
    sa.Index("files_by_purpose", "tenant", "purpose", "seq"),
    sa.Index("files_by_expiry", "expires_at", sqlite_where=sa.text("expires_at IS NOT NULL")),
    sqlite_autoincrement=True,
)

deleted_files = sa.Table(
    "deleted_files",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("deleted_at", sa.BigInteger, nullable=False),
    _check("tenant <> ''", "deleted_files_tenant"),
    sa.Index("deleted_files_by_age", "deleted_at"),
)
"""Where a deleted file stood, so that a client that deletes while it pages through a list does not lose its place."""

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("input_file_id", sa.Text, nullable=False),
    # The same id for as long as the batch reads the file, then NULL: the client may delete its input afterwards.
    sa.Column("reading_file_id", sa.Text, sa.ForeignKey("files.id", name="batches_reading_file")),
    sa.Column("completion_window", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("on_deadline", sa.Text, nullable=False),
    sa.Column("models", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text),
    sa.Column("output_expires_after_seconds", sa.BigInteger),
    sa.Column("in_progress_at", sa.BigInteger),
    sa.Column("finalizing_at", sa.BigInteger),
    sa.Column("completed_at", sa.BigInteger),
    sa.Column("failed_at", sa.BigInteger),
    sa.Column("expired_at", sa.BigInteger),
    sa.Column("cancelling_at", sa.BigInteger),
    sa.Column("cancelled_at", sa.BigInteger),
    sa.Column("deadline_missed_at", sa.BigInteger),
    sa.Column("paused_at", sa.BigInteger),
    sa.Column("pause_reason", sa.Text),
    _count("total"),
    _count("completed"),
    _count("failed"),
    _count("input_tokens"),
    _count("cached_tokens"),
    _count("output_tokens"),
    sa.Column("errors", sa.Text),
    _count("errors_total"),
    sa.Column("output_file_id", sa.Text),
    sa.Column("error_file_id", sa.Text),
    # The client's own key, and a digest of what it asked for: a repeated create finds its first answer.
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_digest", sa.Text),
    sa.Column("on_invalid_line", sa.Text, nullable=False, server_default=OnInvalidLine.FAIL.value),
    _count("invalid_lines"),
    sa.Column("parent_batch_id", sa.Text),
    # A person asked for the pause: only a person ends it.
    sa.Column("held_at", sa.BigInteger),
    sa.Column("eta_at", sa.BigInteger),
    sa.Column("lines_per_s", sa.Double),
    sa.Column("tokens_per_s", sa.Double),
    sa.Column("quality", sa.Text),
    sa.Column("deadline_at", sa.BigInteger),
    sa.Column("warnings", sa.Text),
    sa.Column("schedule", sa.Text),
    sa.Column("reuse", sa.Text, nullable=False, server_default=Reuse.OFF.value),
    _count("reused"),
    _check("tenant <> ''", "batches_tenant"),
    _check(_one_of("status", [status.value for status in BatchStatus]), "batches_status"),
    _check(_one_of("on_deadline", [value.value for value in OnDeadline]), "batches_on_deadline"),
    _check(
        _same(_one_of("status", sorted(TERMINAL_STATUSES)), "reading_file_id IS NULL"),
        "batches_read_until_they_end",
    ),
    _check("reading_file_id IS NULL OR reading_file_id = input_file_id", "batches_read_their_input"),
    # A terminal status and its time come together; there is never the time of another end.
    *(
        _check(_same(f"status = '{status}'", f"{status}_at IS NOT NULL"), f"batches_{status}_at")
        for status in sorted(TERMINAL_STATUSES)
    ),
    _check("status <> 'in_progress' OR in_progress_at IS NOT NULL", "batches_in_progress_at"),
    _check("status <> 'finalizing' OR finalizing_at IS NOT NULL", "batches_finalizing_at"),
    _check("status <> 'cancelling' OR cancelling_at IS NOT NULL", "batches_cancelling_at"),
    _check("status <> 'expired' OR on_deadline = 'expire'", "batches_expire_only_if_told"),
    _check(_same("paused_at IS NULL", "pause_reason IS NULL"), "batches_pause_reason"),
    _check("paused_at IS NULL OR status = 'in_progress'", "batches_paused_in_progress"),
    _check("completed >= 0 AND failed >= 0 AND completed + failed <= total", "batches_counts"),
    _check("input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0", "batches_usage"),
    sa.Index("batches_by_tenant", "tenant", "seq"),
    sa.Index("batches_by_reading_file", "reading_file_id"),
    sa.Index("batches_open", "status", "seq", sqlite_where=sa.text(BATCH_OPEN)),
    sa.Index(
        "batches_by_idempotency_key",
        "tenant",
        "idempotency_key",
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    ),
    sa.Index(
        "batches_by_request", "tenant", "request_digest", "seq", sqlite_where=sa.text("request_digest IS NOT NULL")
    ),
    sa.Index("batches_by_parent", "parent_batch_id", sqlite_where=sa.text("parent_batch_id IS NOT NULL")),
    sqlite_autoincrement=True,
)

shards = sa.Table(
    "shards",
    metadata,
    sa.Column("batch_id", sa.Text, sa.ForeignKey("batches.id", name="shards_batch"), primary_key=True),
    sa.Column("shard_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("stop", sa.Integer, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False, server_default="0"),
    sa.Column("holder", sa.Text),
    sa.Column("lease_expires_at", sa.Double),
    _count("completed"),
    _count("failed"),
    _count("input_tokens"),
    _count("cached_tokens"),
    _count("output_tokens"),
    sa.Column("quality", sa.Text),
    _count("reused"),
    _check("tenant <> ''", "shards_tenant"),
    _check("shard_no >= 0 AND start >= 0 AND stop > start", "shards_range"),
    _check(_one_of("state", [state.value for state in ShardState]), "shards_state"),
    _check("generation >= 0 AND (state = 'ready' OR generation > 0)", "shards_generation"),
    _check(_same("state = 'leased'", "holder IS NOT NULL"), "shards_holder"),
    _check(_same("state = 'leased'", "lease_expires_at IS NOT NULL"), "shards_lease_expires_at"),
    _check("completed >= 0 AND failed >= 0 AND completed + failed <= stop - start", "shards_counts"),
    _check("input_tokens >= 0 AND cached_tokens >= 0 AND output_tokens >= 0", "shards_usage"),
    _check("state <> 'sealed' OR completed + failed = stop - start", "shards_sealed_when_done"),
    sa.Index("shards_open", "batch_id", "shard_no", sqlite_where=sa.text(SHARD_OPEN)),
    sa.Index("shards_leased", "holder", "lease_expires_at", sqlite_where=sa.text(SHARD_LEASED)),
    sa.Index("shards_leases_by_expiry", "lease_expires_at", sqlite_where=sa.text(SHARD_LEASED)),
)
"""With a rowid: without one SQLite prefers the primary key to `shards_open`, and walks all sealed shards of a batch to
find its next ones."""

segments = sa.Table(
    "segments",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("shard_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("generation", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("valid_bytes", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["batch_id", "shard_no"], ["shards.batch_id", "shards.shard_no"], name="segments_shard"),
    _check("tenant <> ''", "segments_tenant"),
    _check("generation > 0", "segments_generation"),
    _check("valid_bytes >= 0", "segments_valid_bytes"),
    sqlite_with_rowid=False,
)
"""Segments of former generations, with as much of each as its successor found whole. Rows are never updated."""

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("mime_type", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("file_expires_after_seconds", sa.BigInteger),
    sa.Column("file_id", sa.Text),
    _check("tenant <> ''", "uploads_tenant"),
    _check("bytes >= 0", "uploads_bytes"),
    _check(_one_of("status", [status.value for status in UploadStatus]), "uploads_status"),
    _check(_same("status = 'completed'", "file_id IS NOT NULL"), "uploads_file"),
    sa.Index("uploads_pending", "expires_at", sqlite_where=sa.text("status = 'pending'")),
    sqlite_autoincrement=True,
)

upload_parts = sa.Table(
    "upload_parts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("upload_id", sa.Text, sa.ForeignKey("uploads.id", name="upload_parts_upload"), nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("blob", sa.Text, nullable=False, unique=True),
    _check("tenant <> ''", "upload_parts_tenant"),
    _check("bytes >= 0", "upload_parts_bytes"),
    sa.Index("upload_parts_by_upload", "upload_id"),
)
"""Rows go when their upload is completed, cancelled or expired; the bytes are then the caller's to delete."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("batch_id", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    _check("tenant <> ''", "events_tenant"),
    sa.Index("events_by_age", "created_at"),
    sqlite_autoincrement=True,
)
"""What happened to batches, written in the transaction in which it happened: nothing that was told to a client can be
missing here after a crash. Rows go when every delivery of theirs has ended."""

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("event_id", sa.Text, sa.ForeignKey("events.id", name="deliveries_event"), primary_key=True),
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt_at", sa.Double),
    sa.Column("delivered_at", sa.BigInteger),
    sa.Column("given_up_at", sa.BigInteger),
    sa.Column("last_error", sa.Text),
    _check("tenant <> ''", "deliveries_tenant"),
    _check("attempts >= 0", "deliveries_attempts"),
    sa.Index("deliveries_due", "next_attempt_at", sqlite_where=sa.text("next_attempt_at IS NOT NULL")),
)
"""One event on its way to one target (a webhook's name, or the local command). `next_attempt_at` NULL: it has ended."""
