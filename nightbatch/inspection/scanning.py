"""A file read once from front to back, line by line, with what its bytes say about the program that wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nightbatch.inspection.findings import Findings
from store.line_blocks import Block, LineBlocks, Overlong
from store.lines import BYTE_ORDER_MARK

READ_BYTES: Final = 1024 * 1024
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")

OnBytes = Callable[[int], None]


@dataclass(slots=True)
class Framing:
    """How the lines stand in the file; `lines` counts blank ones too. A first line of 0: there is none."""

    starts_with: bytes = b""
    ends_with: bytes = b""
    lines: int = 0
    crlf: int = 0
    blank: int = 0
    first_crlf: int = 0
    first_blank: int = 0


def read_lines(path: Path, line_bytes_max: int, framing: Framing, on_bytes: OnBytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes without line ending) of each line that is neither blank nor too long; `framing` fills up."""
    for piece in _pieces(path, line_bytes_max, framing, on_bytes):
        if isinstance(piece, Overlong):
            framing.lines += 1
            continue
        for whole in piece.lines:
            framing.lines += 1
            raw = whole
            if whole[-1:] == b"\r":
                raw = whole[:-1]
                framing.crlf += 1
                framing.first_crlf = framing.first_crlf or framing.lines
            if not raw or raw.isspace():
                framing.blank += 1
                framing.first_blank = framing.first_blank or framing.lines
                continue
            if len(raw) <= line_bytes_max:
                yield framing.lines, raw


def _pieces(path: Path, line_bytes_max: int, framing: Framing, on_bytes: OnBytes) -> Iterator[Block | Overlong]:
    blocks = LineBlocks(line_bytes_max)
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            if not done:
                framing.starts_with = chunk[:16]
            framing.ends_with = chunk[-1:]
            done += len(chunk)
            yield from blocks.take(chunk)
            on_bytes(done)
    yield from blocks.end()


def judge(framing: Framing, findings: Findings) -> None:
    """What the framing says, as findings."""
    if framing.starts_with.startswith(BYTE_ORDER_MARK):
        findings.add("byte_order_mark", 1, "the file begins with the bytes EF BB BF")
    if framing.starts_with.startswith(_UTF16_MARKS):
        findings.add("utf16", 0, "the file begins with the byte order mark of UTF-16")
    if framing.starts_with.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"[":
        findings.add("json_array", 1, "the file begins with [")
    if framing.crlf:
        findings.add("crlf", framing.first_crlf, "the line ends with CR LF", count=framing.crlf)
    if framing.blank:
        findings.add("blank_lines", framing.first_blank, "the line is blank", count=framing.blank)
    if framing.ends_with not in (b"", b"\n"):
        findings.add("no_final_newline", framing.lines, "no line ending behind the last line")
