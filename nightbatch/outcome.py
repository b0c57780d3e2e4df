"""What became of a batch: its counts and tokens for people, its files on disk, its exit code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openai.types import Batch

from nightbatch import exits
from nightbatch.client import Client, OnBytes

LINE_ERRORS_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Downloads:
    """Where the two result files were put; None where the batch has none."""

    output: Path | None
    errors: Path | None


def download(client: Client, batch: Batch, folder: Path, on_bytes: OnBytes) -> Downloads:
    """`<batch>_output.jsonl` and `<batch>_error.jsonl` in `folder`, as far as the batch has them.

    An empty file id counts as none: some servers send that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output, errors = folder / f"{batch.id}_output.jsonl", folder / f"{batch.id}_error.jsonl"
    if batch.output_file_id:
        client.download(batch.output_file_id, output, on_bytes)
    if batch.error_file_id:
        client.download(batch.error_file_id, errors, on_bytes)
    return Downloads(output if batch.output_file_id else None, errors if batch.error_file_id else None)


def exit_code(batch: Batch) -> int:
    """0 only when every line succeeded."""
    if batch.status == "failed":
        return exits.BATCH_FAILED
    counts = batch.request_counts
    whole = counts is not None and counts.failed == 0 and counts.completed == counts.total
    return exits.OK if batch.status == "completed" and whole else exits.SOME_FAILED


def summary(batch: Batch, run_seconds: float | None = None) -> str:
    """One line: `batch_x completed: 200 of 200 lines succeeded, 14,204 tokens in, 1,820 out, 42.1 s (43 tok/s)`."""
    text = f"{batch.id} {batch.status}"
    if counts := batch.request_counts:
        text += f": {counts.completed:,} of {counts.total:,} lines succeeded"
        if reused := getattr(batch, "reused_requests", 0):
            text += f" ({reused:,} of them reused)"
        if counts.failed:
            text += f", {counts.failed:,} failed"
    taken = run_seconds if run_seconds is not None else ran_seconds(batch)
    if usage := batch.usage:
        text += f", {usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"
    if taken:
        text += f", {taken:.1f} s"
        if batch.usage:
            tokens = batch.usage.output_tokens or batch.usage.input_tokens
            text += f" ({tokens / taken:,.0f} tok/s{'' if batch.usage.output_tokens else ' read'})"
    return text


def ran_seconds(batch: Batch) -> float | None:
    """From the server's own stamps, which are whole seconds: None for what took less than one."""
    end = batch.finalizing_at or batch.completed_at or batch.cancelled_at or batch.expired_at
    if not batch.in_progress_at or not end or end <= batch.in_progress_at:
        return None
    return float(end - batch.in_progress_at)


def refusals(batch: Batch) -> list[str]:
    """Why a batch failed, a line each: `line 47: invalid_json_line: ...`."""
    errors = (batch.errors.data if batch.errors else None) or []
    lines = []
    for error in errors[:LINE_ERRORS_SHOWN_MAX]:
        where = f"line {error.line}: " if error.line else ""
        lines.append(f"{where}{error.code}: {error.message}")
    if len(errors) > LINE_ERRORS_SHOWN_MAX:
        lines.append(f"... and {len(errors) - LINE_ERRORS_SHOWN_MAX:,} more")
    return lines
