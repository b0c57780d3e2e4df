"""Finding repeated custom ids by their hashes: 8 bytes a line instead of the ids themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def duplicates(hashes: bytes | bytearray, custom_id_of: Callable[[int], str]) -> Iterator[int]:
    """The lines whose custom_id an earlier line has. Equal hashes only raise the suspicion: the lines decide."""
    ids = np.frombuffer(hashes, "<u8")
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    same_as_next = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
    seen: dict[str, int] = {}
    group_end = -1
    for at in same_as_next.tolist():
        if at != group_end:
            seen = {custom_id_of(int(order[at])): 0}
        group_end = at + 1
        custom_id = custom_id_of(int(order[at + 1]))
        if custom_id in seen:
            yield int(order[at + 1])
        seen[custom_id] = 0
