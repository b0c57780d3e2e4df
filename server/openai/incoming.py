"""The bytes of one file on their way into the store, wherever they come from: a form, or the parts of an upload.

A batch input that is compressed is inflated as it comes: what is stored, counted and indexed are its lines.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Protocol

from server.context import Api
from server.errors import invalid, shown
from server.openai import strict
from store.inflating import MAGIC_BYTES, CorruptStream, Inflater, compression_of, plain_name
from store.records import InputSummary
from store.uploads import Upload

BATCH = "batch"
FILE = "file"

INFLATED_AT_ONCE_BYTES = 64 * 1024
"""Compressed bytes of one step: a step's work is bounded also for a file of nothing but tiny members."""


class Stored(Protocol):
    """What the store says of bytes that are durable."""

    @property
    def key(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def summary(self) -> InputSummary | None: ...


class Incoming:
    """Owns the store's upload until `finish` or `abort`. `purpose` is None while the client has not said it."""

    def __init__(self, api: Api, *, purpose: str | None, filename: str, in_parts: bool = False) -> None:
        self._api = api
        self._purpose = purpose
        self._in_parts = in_parts
        self._head = b""
        self._upload: Upload | None = None
        self._inflater: Inflater | None = None
        self._undecided = False
        self._bytes = 0
        self._sent_as = filename
        self.filename = filename
        """What the file is called now: without the suffix of a compression that is undone."""

    async def write(self, data: bytes) -> None:
        if self._upload is None:
            self._head += data
            if len(self._head) < MAGIC_BYTES:
                return
            data = await self._begin()
        await self._take(data)

    async def finish(self, purpose: str) -> Stored:
        """The bytes are durable and the caller's; `purpose` is what they turned out to be for."""
        if self._upload is None:
            await self._take(await self._begin())
        if self._bytes == 0 and self._inflater is None:
            raise self._empty()
        assert self._upload is not None
        if self._inflater is not None:
            try:
                self._inflater.end()
            except CorruptStream as error:
                raise self._corrupt(error) from None
            if self._bytes == 0:
                raise self._empty()
        self._check_bytes(purpose)
        stored: Stored = await self._upload.finish()
        self._upload = None
        return await self._again(stored) if self._undecided and purpose == BATCH else stored

    async def abort(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            await upload.abort()

    async def _begin(self) -> bytes:
        """Choose, by the first bytes, what becomes of the rest; returns the bytes held back so far."""
        compression = compression_of(self._head)
        if compression is not None and self._purpose == BATCH:
            self._inflater = Inflater(compression)
            self.filename = plain_name(self.filename, compression)
        self._undecided = compression is not None and self._purpose is None
        # A purpose that comes after the file may still turn out to be `batch`: then its index must be there.
        indexed = self._purpose == BATCH or (self._purpose is None and not self._undecided)
        self._upload = await self._api.store.uploads.begin(indexed=indexed)
        head, self._head = self._head, b""
        return head

    async def _take(self, data: bytes) -> None:
        if self._inflater is None:
            await self._keep(data)
            return
        for start in range(0, len(data), INFLATED_AT_ONCE_BYTES):
            self._inflater.feed(data[start : start + INFLATED_AT_ONCE_BYTES])
            try:
                while piece := await asyncio.to_thread(self._inflater.piece):
                    await self._keep(piece)
            except CorruptStream as error:
                raise self._corrupt(error) from None

    async def _keep(self, data: bytes) -> None:
        self._bytes += len(data)
        self._check_bytes(self._purpose)
        assert self._upload is not None
        await self._upload.write(data)

    def _check_bytes(self, purpose: str | None) -> None:
        settings = self._api.settings
        if self._bytes > strict.bytes_max(purpose, settings, in_parts=self._in_parts):
            what = "file" if self._inflater is None else "decompressed file"
            raise strict.too_large(purpose, settings, in_parts=self._in_parts, what=what)

    async def _again(self, raw: Stored) -> Stored:
        """A compressed file whose purpose came after it is a batch input: inflate it now."""
        inflated = Incoming(self._api, purpose=BATCH, filename=self.filename, in_parts=self._in_parts)
        try:
            async with aclosing(self._api.store.blobs.read(raw.key)) as chunks:
                async for chunk in chunks:
                    await inflated.write(chunk)
            stored = await inflated.finish(BATCH)
        except BaseException:
            await inflated.abort()
            raise
        finally:
            await self._api.store.blobs.delete(raw.key)
        self.filename = inflated.filename
        return stored

    def _empty(self) -> Exception:
        return invalid(FILE, f"the file {shown(self._sent_as)} is empty.", code="empty_file")

    def _corrupt(self, error: CorruptStream) -> Exception:
        return invalid(FILE, f"the file {shown(self._sent_as)} cannot be decompressed: {error}.", code="corrupt_file")
