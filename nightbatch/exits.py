"""Exit codes of the command, and which exceptions are answers to the user rather than faults of ours."""

from __future__ import annotations

import sys

OK = 0
SOME_FAILED = 1
"""The batch ended, but not every line succeeded; for `doctor`, something is wrong."""
USAGE = 2
"""Wrong arguments or configuration, or no server."""
BATCH_FAILED = 3
"""The batch was refused as a whole: nothing ran."""
INTERRUPTED = 130


class UsageError(Exception):
    """What the user can put right, in one line."""


def expected(error: Exception) -> str | None:
    """The line for the user, or None when the traceback is wanted. Looks only at modules that are loaded anyway: an
    exception of one that is not cannot have been raised."""
    kinds: list[type[Exception]] = [UsageError]
    for module, name in (("nightbatch.client", "ClientError"), ("nightbatch.config.refusals", "ConfigError")):
        loaded = sys.modules.get(module)
        if loaded is not None:
            kinds.append(getattr(loaded, name))
    if not isinstance(error, tuple(kinds)):
        return None
    hint = ""
    if getattr(error, "unreachable", False):
        hint = ": start one with `nightbatch serve`, or name it with --url"
    return f"{error}{hint}"
