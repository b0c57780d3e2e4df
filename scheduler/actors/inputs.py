"""Open inputs of the batches being run: a verified index is opened once per batch, not once per shard."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from store import Store
from store.index import LineIndex
from store.lines import InputLine, parse_line
from store.records import BatchRecord, Damaged

INPUTS_OPEN_MAX = 64


@dataclass(frozen=True, slots=True)
class BatchInput:
    index: LineIndex
    blob_path: Path
    order_path: Path

    def requests(self, line_nos: Sequence[int]) -> list[InputLine]:
        """The lines, opened. Blocking. Damaged when the file is not what its index was made from."""
        raws = self.index.read_lines(self.blob_path, line_nos)
        return [self._opened(line_no, raw) for line_no, raw in zip(line_nos, raws, strict=True)]

    def custom_ids_left(self, line_nos: Sequence[int]) -> list[str]:
        """The custom_ids that a damaged file still holds; empty where it does not. Blocking."""
        try:
            raws = self.index.read_lines(self.blob_path, line_nos)
        except Damaged:
            return [""] * len(line_nos)
        return [self._custom_id_left(line_no, raw) for line_no, raw in zip(line_nos, raws, strict=True)]

    def _opened(self, line_no: int, raw: bytes) -> InputLine:
        try:
            return parse_line(raw)
        except ValueError as error:
            line = int(self.index.records[line_no]["line"])
            raise Damaged(f"line {line} of input file {self.blob_path} is not what its index was made from") from error

    def _custom_id_left(self, line_no: int, raw: bytes) -> str:
        try:
            return self._opened(line_no, raw).custom_id
        except Damaged:
            return ""


class Inputs:
    """The least recently used is let go when there are more than `INPUTS_OPEN_MAX`; its mapping goes with it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: OrderedDict[str, BatchInput] = OrderedDict()

    async def open(self, batch: BatchRecord) -> BatchInput:
        """The input of a batch; Damaged when its file, or the index beside it, is gone or broken."""
        found = self._open.get(batch.id)
        if found is None:
            file = await self._store.files.get(batch.tenant, batch.input_file_id)
            if file is None:
                raise Damaged(f"input file {batch.input_file_id} of batch {batch.id} has no row")
            blob_path = self._store.blobs.path(file.blob)
            index = await asyncio.to_thread(LineIndex.open, self._store.index_path(file.blob))
            found = BatchInput(index, blob_path, self._store.order_path(batch.id))
            self._open[batch.id] = found
        self._open.move_to_end(batch.id)
        while len(self._open) > INPUTS_OPEN_MAX:
            self._open.popitem(last=False)
        return found

    def forget(self, batch_id: str) -> None:
        self._open.pop(batch_id, None)
