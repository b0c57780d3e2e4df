"""The results of a batch that still runs, read from its segments in the order in which they became durable.

Per shard that order never changes: what a generation's successor counts of its segment is everything that was whole
when it looked, which is at least what anyone had read before. So a reader's place is a count per shard.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.ranges import read_ranges
from store.segments import Scan, scan

SHARDS_NAMED_MAX = 512
_TEXT = re.compile(r"^v1\.(\d{1,9})(?:\.(\d{1,9}-\d{1,9}(?:_\d{1,9}-\d{1,9})*))?$")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader is: shards below `below` are read to their end, `counts` results of each of the others."""

    below: int = 0
    counts: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        named = "_".join(f"{shard}-{count}" for shard, count in sorted(self.counts.items()))
        return f"v1.{self.below}" + (f".{named}" if named else "")

    @classmethod
    def parse(cls, text: str) -> Place:
        """ValueError for what no page has given."""
        found = _TEXT.match(text)
        if found is None:
            raise ValueError(f"{text[:100]!r} is no cursor of this list")
        pairs = [pair.split("-") for pair in (found[2] or "").split("_") if pair]
        if len(pairs) > SHARDS_NAMED_MAX:
            raise ValueError(f"a cursor names at most {SHARDS_NAMED_MAX} shards")
        return cls(int(found[1]), {int(shard): int(count) for shard, count in pairs})


@dataclass(frozen=True, slots=True)
class LiveShard:
    """A shard as its reader sees it: how many lines it has, and its segments, lowest generation first, with how many
    bytes of each count (None: as many as are whole)."""

    shard_no: int
    lines: int
    segments: Sequence[tuple[Path, int | None]]


def read_page(
    shards: Sequence[LiveShard], place: Place, *, lines_max: int, bytes_max: int
) -> tuple[list[bytes], Place]:
    """The next results, without newlines, and the place behind them. Blocking.

    `shards` are by number and hold at least those from `place.below` on that were ever leased; what is read of each is
    its part of the page. Only the last line of a page may lead beyond `bytes_max`.
    """
    by_number = {shard.shard_no: shard for shard in shards}

    def read(shard_no: int, skip: int, lines: int, size: int) -> list[bytes]:
        return _results(by_number[shard_no], skip, lines, size)

    sizes = ((shard.shard_no, shard.lines) for shard in shards)
    return page_of(sizes, place, read, lines_max=lines_max, bytes_max=bytes_max)


Read = Callable[[int, int, int, int], list[bytes]]
"""Of a shard, behind its first so many results: at most so many lines and bytes, at least one line if there is one."""


def page_of(
    shards: Iterable[tuple[int, int]], place: Place, read: Read, *, lines_max: int, bytes_max: int
) -> tuple[list[bytes], Place]:
    """Walk the shards (number, lines) from `place` on until the page is full."""
    counts = dict(place.counts)
    found: list[bytes] = []
    size = 0
    seen: dict[int, int] = {}
    for shard_no, shard_lines in shards:
        seen[shard_no] = shard_lines
        if shard_no < place.below:
            continue
        done = counts.get(shard_no, 0)
        if done >= shard_lines:
            continue
        room = lines_max - len(found)
        if room <= 0 or (size >= bytes_max and found) or len(counts) >= SHARDS_NAMED_MAX:
            break
        lines = read(shard_no, done, room, bytes_max - size)
        if lines:
            counts[shard_no] = done + len(lines)
            found += lines
            size += sum(map(len, lines))
    return found, _settled(Place(place.below, counts), seen)


def _results(shard: LiveShard, skip: int, lines_max: int, bytes_max: int) -> list[bytes]:
    """Up to `lines_max` results behind the first `skip`; fewer when they are long, but at least one if there is one."""
    found: list[bytes] = []
    for path, valid_bytes in shard.segments:
        whole = scan(path, valid_bytes)
        count = len(whole.line_nos)
        if skip >= count:
            skip -= count
            continue
        lines = _lines(path, whole, skip, min(count, skip + lines_max - len(found)), bytes_max - sum(map(len, found)))
        found += lines
        if skip + len(lines) < count:
            break  # the page is full, perhaps a few bytes early: what comes next stands here, not in the next segment
        skip = 0
        if len(found) >= lines_max or sum(map(len, found)) >= bytes_max:
            break
    return found


def _lines(path: Path, whole: Scan, start: int, stop: int, bytes_max: int) -> list[bytes]:
    lengths = whole.lengths[start:stop].tolist()
    size, count = 0, 0
    for length in lengths:
        if count and size + length > bytes_max:
            break
        size += length
        count += 1
    with path.open("rb") as file:
        offsets = whole.offsets[start : start + count].tolist()
        return read_ranges(file.fileno(), offsets, lengths[:count], path)


def _settled(place: Place, lines: Mapping[int, int]) -> Place:
    """The shortest way to say the same: shards that are read to their end at the front need no count."""
    below, counts = place.below, dict(place.counts)
    while below in lines and counts.get(below, 0) >= lines[below]:
        counts.pop(below, None)
        below += 1
    return Place(below, {shard: count for shard, count in counts.items() if shard >= below and count})
