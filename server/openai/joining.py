"""From the parts of an upload to one file: read in the order asked for, a chunk at a time, as if it had come whole."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from server.context import Api
from server.errors import ApiError, invalid, shown
from server.openai.incoming import Incoming
from server.openai.uploading import Received
from store.parts import PartRecord, UploadRecord

PART_IDS = "part_ids"
MD5 = "md5"


def chosen_parts(upload: UploadRecord, part_ids: Sequence[str], known: Mapping[str, PartRecord]) -> list[PartRecord]:
    """The parts in order; their bytes must be what the upload declared."""
    if not part_ids:
        raise invalid(PART_IDS, "at least one part is needed.")
    seen: set[str] = set()
    for part_id in part_ids:
        if part_id not in known:
            raise invalid(PART_IDS, f"{shown(part_id)} is no part of upload {upload.id}.", code="part_not_found")
        if part_id in seen:
            raise invalid(PART_IDS, f"{shown(part_id)} is there twice.", code="duplicate_part")
        seen.add(part_id)
    parts = [known[part_id] for part_id in part_ids]
    total = sum(part.bytes for part in parts)
    if total != upload.bytes:
        raise ApiError(
            400,
            f"The parts have {total} bytes together, but the upload was created for {upload.bytes} bytes.",
            param=PART_IDS,
            code="bytes_mismatch",
        )
    return parts


async def join(api: Api, upload: UploadRecord, parts: Sequence[PartRecord], md5: str | None) -> Received:
    """The whole file, durable and indexed; no row knows it yet. `md5` is of the bytes as they were uploaded."""
    incoming = Incoming(api, purpose=upload.purpose, filename=upload.filename, in_parts=True)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        for part in parts:
            async with aclosing(api.store.blobs.read(part.blob)) as chunks:
                async for chunk in chunks:
                    if md5 is not None:
                        await asyncio.to_thread(digest.update, chunk)
                    await incoming.write(chunk)
        _check_md5(md5, digest.hexdigest())
        stored = await incoming.finish(upload.purpose)
    except BaseException:
        await incoming.abort()
        raise
    return Received(upload.purpose, incoming.filename, upload.file_expires_after_seconds, stored)


def _check_md5(wanted: str | None, found: str) -> None:
    if wanted is not None and found != wanted.lower():
        raise invalid(MD5, f"expected {shown(wanted)}, but the parts give '{found}'.", code="md5_mismatch")
