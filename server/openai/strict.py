"""OpenAI's own limits and rules for files, for whoever wants to meet them here first: `[server] strict_openai`."""

from __future__ import annotations

from server.errors import ApiError
from server.settings import MIB, ServerSettings

BATCH_BYTES_MAX = 200 * MIB
FILE_BYTES_MAX = 512 * MIB
UPLOAD_BYTES_MAX = 8192 * MIB
SUFFIX = ".jsonl"
SETTING = "[server] strict_openai is on"


def check_name(filename: str, settings: ServerSettings) -> None:
    """A batch input's name, in OpenAI's words."""
    if settings.strict_openai and not filename.endswith(SUFFIX):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")


def bytes_max(purpose: str | None, settings: ServerSettings, *, in_parts: bool = False) -> int:
    """The most bytes that a file may have; a purpose that is not known yet may turn out to be any."""
    if not settings.strict_openai:
        return settings.upload_bytes_max
    by_purpose = UPLOAD_BYTES_MAX if in_parts else FILE_BYTES_MAX
    limit = BATCH_BYTES_MAX if purpose == "batch" else by_purpose
    return min(limit, settings.upload_bytes_max)


def too_large(purpose: str | None, settings: ServerSettings, *, in_parts: bool = False, what: str = "file") -> ApiError:
    """The answer at that limit, with the key that raises it."""
    limit = bytes_max(purpose, settings, in_parts=in_parts)
    key = "[store] upload_mib_max" if limit == settings.upload_bytes_max else SETTING
    message = f"The {what} is larger than the server's limit of {limit} bytes ({key})."
    return ApiError(413, message, param="file", code="file_too_large")
