"""The results of an ended batch, read from its two files side by side: in input order, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple

from store.pacing import Pace
from store.records import Damaged
from store.result_ids import result_ids

PACED_BYTES: Final = 64 * 1024
"""The pace is asked for so much at a time."""


class Result(NamedTuple):
    """`raw` is the result line without its newline."""

    line_no: int
    succeeded: bool
    raw: bytes


class EndedResults:
    """Opens the files at once, so that deleting one meanwhile takes nothing away. Use it in `with`. Blocking: reading
    goes at the `pace`, so it belongs on the threads of `Pace.run`."""

    def __init__(
        self, batch_id: str, total: int, output: Path | None, error: Path | None, *, pace: Pace | None = None
    ) -> None:
        self._batch_id = batch_id
        self._total = total
        self._pace = pace or Pace()
        self._stack = ExitStack()
        self._files: list[tuple[bool, BinaryIO]] = []
        try:
            for succeeded, path in ((True, output), (False, error)):
                if path is not None:
                    self._files.append((succeeded, self._stack.enter_context(path.open("rb"))))
        except OSError as failure:
            self._stack.close()
            raise Damaged(f"a result file of batch {batch_id} cannot be read: {failure}") from failure

    def __enter__(self) -> EndedResults:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Result]:
        """Lines whose file is not there are left out."""
        heads = [(succeeded, file, file.readline()) for succeeded, file in self._files]
        read_bytes = 0
        for line_no in range(self._total):
            heads = [head for head in heads if head[2]]
            if not heads:
                return
            start = b'{"id":"batch_req_%b"' % result_ids(self._batch_id, line_no)[0]
            for place, (succeeded, file, raw) in enumerate(heads):
                if raw.startswith(start):
                    read_bytes += len(raw)
                    if read_bytes >= PACED_BYTES:
                        self._pace.take(read_bytes)
                        read_bytes = 0
                    yield Result(line_no, succeeded, raw.rstrip(b"\n"))
                    heads[place] = (succeeded, file, file.readline())
                    break
