"""Whether the disk has room for the results of a batch that is about to start, in a sentence with the arithmetic. Pure.

Results lie twice on the disk while the output file is written. A batch that certainly needs more than there is, and so
much that it would leave nothing to others, is refused before it has begun. One that probably does is told so: it pauses
when the disk is full, and goes on when there is room.
"""

from __future__ import annotations

from scheduler.facts.result_sizes import ResultSize
from scheduler.policy.admission import Remark

REFUSED_CODE = "disk_too_small"
SHORT_CODE = "disk_may_fill_up"
COPIES = 2
"""Of each result: in the segments, and in the file that is made of them."""

KIB, UNITS = 1024, ("KiB", "MiB", "GiB", "TiB")


def judge_disk(size: ResultSize, *, free_bytes: int, reserve_bytes: int, promised_bytes: float) -> Remark | None:
    """`promised_bytes` is what batches that run already will still write."""
    room = free_bytes - reserve_bytes - promised_bytes
    least, likely = COPIES * size.least, COPIES * size.likely
    twice = "twice, since the output file is made of what was recorded"
    there = f"{in_words(max(0.0, room))} of the disk are free above the reserve"
    if promised_bytes >= KIB:
        there += f" and the results of running batches ({in_words(promised_bytes)})"
    if least > room and least > reserve_bytes:
        text = (
            f"The results need at least {in_words(least)} of disk ({size.why}; {twice}), and {there}. Delete files, "
            "enlarge the disk, or send fewer lines at once."
        )
        return Remark(REFUSED_CODE, text)
    if likely > room:
        text = (
            f"The results probably need {in_words(likely)} of disk ({size.why}; {twice}), and {there}. The batch "
            "pauses while the disk is full: delete files or enlarge it."
        )
        return Remark(SHORT_CODE, text)
    return None


def in_words(count: float) -> str:
    """`512 KiB`, `7.8 GiB`: two digits are enough for a forecast."""
    size, unit = count / KIB, UNITS[0]
    for larger in UNITS[1:]:
        if size < KIB:
            break
        size, unit = size / KIB, larger
    number = f"{size:.1f}".removesuffix(".0") if 0 < size < 9.95 else f"{size:,.0f}"
    return f"{number} {unit}"
