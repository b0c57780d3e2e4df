"""The bytes of a file as a response: whole, a range, or compressed."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.datastructures import Headers
from starlette.types import Send

from server.errors import ApiError
from server.openai.ranges import ByteRange, Unsatisfiable, parse_range
from store.pacing import Pace
from store.records import FileRecord
from store.store import Store

OCTETS = "application/octet-stream"
GZIP_LEVEL = 1
GZIP_WBITS = 31  # zlib's word for a gzip header and trailer


async def content_response(headers: Headers, record: FileRecord, store: Store, *, gzip_bytes_min: int) -> Response:
    """At the store's paces: an online answer goes before a download."""
    etag = f'"{record.id}"'
    common = {
        "accept-ranges": "bytes",
        "etag": etag,
        "content-disposition": disposition(record.filename),
        "vary": "accept-encoding",
    }
    known = headers.get("if-none-match", "")
    if etag in known or known.strip() == "*":
        return Response(status_code=304, headers={"etag": etag, "vary": "accept-encoding"})
    wanted = _wanted_range(headers, record, etag)
    if wanted is not None:
        common["content-range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{record.bytes}"
        common["content-length"] = str(wanted.stop - wanted.start)
        body = await _begun(store.blobs.read(record.blob, wanted.start, wanted.stop), store.download_pace)
        return _Streamed(body, status_code=206, headers=common, media_type=OCTETS)
    body = await _begun(store.blobs.read(record.blob), store.download_pace)
    if record.bytes >= gzip_bytes_min and accepts_gzip(headers.get("accept-encoding", "")):
        # A weak tag: the same file, in bytes that Range cannot address.
        compressed = {**common, "content-encoding": "gzip", "etag": f"W/{etag}"}
        return _Streamed(_gzipped(body, store.intake_pace), headers=compressed, media_type=OCTETS)
    return _Streamed(body, headers={**common, "content-length": str(record.bytes)}, media_type=OCTETS)


class _Streamed(StreamingResponse):
    """Closes its source when the client goes away, not whenever the garbage collector comes by."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(_closable(self.body_iterator)):
            await super().stream_response(send)


def accepts_gzip(accept_encoding: str) -> bool:
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            weight = parameters.strip().removeprefix("q=").strip()
            return weight == "" or weight.strip("0.") != ""
    return False


def disposition(filename: str) -> str:
    """A plain ASCII name for old clients and the real one in RFC 5987's form: nothing of a client's reaches it raw."""
    plain = "".join(char if char.isascii() and char.isprintable() and char not in '"\\%' else "_" for char in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"


def _wanted_range(headers: Headers, record: FileRecord, etag: str) -> ByteRange | None:
    if headers.get("if-range") not in (None, etag):
        return None
    try:
        return parse_range(headers.get("range"), record.bytes)
    except Unsatisfiable:
        raise ApiError(
            416,
            f"The range {headers['range'][:100]!r} lies beyond the file's {record.bytes} bytes.",
            code="range_not_satisfiable",
            headers={"content-range": f"bytes */{record.bytes}"},
        ) from None


async def _begun(chunks: AsyncIterator[bytes], pace: Pace) -> AsyncGenerator[bytes, None]:
    """Open the blob before the status is sent: one that cannot be read is an error answer, not a torn body."""
    first = await anext(chunks, b"")

    async def rest() -> AsyncGenerator[bytes, None]:
        yield first
        async with aclosing(_closable(chunks)):
            async for chunk in chunks:
                await pace.taken(len(chunk))
                yield chunk

    return rest()


async def _gzipped(chunks: AsyncGenerator[bytes, None], pace: Pace) -> AsyncGenerator[bytes, None]:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS)
    async with aclosing(chunks):
        async for chunk in chunks:
            await pace.taken(len(chunk))
            compressed = await asyncio.to_thread(compressor.compress, chunk)
            if compressed:
                yield compressed
    yield await asyncio.to_thread(compressor.flush)


def _closable(chunks: object) -> AsyncGenerator[Any, None]:
    """All of ours are generators; the types of the store and of Starlette say less."""
    return cast("AsyncGenerator[Any, None]", chunks)
