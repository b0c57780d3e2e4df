"""One result for each line of a batch, out of its own and those of its retries.

The lines of a retry are some of its parent's, in its parent's order, and so on down: all are read side by side, each
once, and none is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from store.answers import custom_id_of, failure_code_of
from store.ended import EndedResults, Result

DUPLICATE: Final = "duplicate_custom_id"


class Merged(NamedTuple):
    succeeded: bool
    raw: bytes


def merge(root: EndedResults, retries: Sequence[EndedResults]) -> Iterator[Merged]:
    """Each custom_id once, in the root's order: its newest success, else its newest error. `retries` come oldest first.

    A line whose custom_id another line had before was never run: it is left out. Those without a readable custom_id
    are all kept.
    """
    heads = [_Head(retry) for retry in retries]
    for result in root:
        custom_id = custom_id_of(result.raw)
        if not result.succeeded and failure_code_of(result.raw) == DUPLICATE:
            continue
        best = Merged(result.succeeded, result.raw)
        if custom_id:
            for head in heads:
                newer = head.take(custom_id)
                if newer is not None and (newer.succeeded or not best.succeeded):
                    best = Merged(newer.succeeded, newer.raw)
        yield best


class _Head:
    """The next result of a retry."""

    def __init__(self, results: EndedResults) -> None:
        self._walk = iter(results)
        self._next: Result | None = None
        self._custom_id: str | None = None
        self._step()

    def take(self, custom_id: str) -> Result | None:
        if self._custom_id != custom_id:
            return None
        found = self._next
        self._step()
        return found

    def _step(self) -> None:
        self._next = next(self._walk, None)
        self._custom_id = None if self._next is None else custom_id_of(self._next.raw)
