"""What the server and an index worker say to each other: one JSON object a line, over the worker's stdin and stdout.

The worker answers a job once, with `Indexed` or `NotIndexed`; an aborted job is not answered.
"""

from __future__ import annotations

from typing import Final

import msgspec

from store.records import InputSummary

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The longest message: a summary with `line_errors_shown_max` errors and a thousand names of each kind."""


class BeginJob(msgspec.Struct, frozen=True, tag="begin"):
    """Index `blob_path`, which may still be empty, into `index_path`. `secret` keys the hashes of custom ids."""

    job: int
    blob_path: bytes
    index_path: bytes
    secret: bytes
    line_bytes_max: int
    lines_max: int
    line_errors_shown_max: int


class GrowJob(msgspec.Struct, frozen=True, tag="grow"):
    """The file has at least `size` bytes now."""

    job: int
    size: int


class EndJob(msgspec.Struct, frozen=True, tag="end"):
    """The file has exactly `size` bytes and is complete."""

    job: int
    size: int


class AbortJob(msgspec.Struct, frozen=True, tag="abort"):
    job: int


class PaceWork(msgspec.Struct, frozen=True, tag="pace"):
    """Index at most so fast from now on, whatever is being done; None: as fast as it goes."""

    bytes_per_s: float | None


class Indexed(msgspec.Struct, frozen=True, tag="indexed"):
    job: int
    summary: InputSummary


class NotIndexed(msgspec.Struct, frozen=True, tag="not_indexed"):
    """`errno` is set when the operating system refused (a full disk, say)."""

    job: int
    message: str
    errno: int | None = None


JobOrder = BeginJob | GrowJob | EndJob | AbortJob
Order = JobOrder | PaceWork
Answer = Indexed | NotIndexed
