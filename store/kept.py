"""Which answers may be given again to whom: a file for all batches of the server, and one for each batch that shares
only with itself."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from store.kept_answers import KeptAnswers
from store.records import BatchRecord, Reuse

KEY_BYTES: Final = 16
BATCHES_OPEN_MAX: Final = 64
"""Files of single batches that are open at once; of the others nothing is found until they come up again."""

SERVER_FOLDER: Final = "reuse"
FILE_NAME: Final = "answers.sqlite3"
_PERSON: Final = b"nightbatch-reuse"


class Kept:
    """From the event loop only, but for `trim`. No file is made before there is something to keep."""

    def __init__(
        self,
        folder: Path,
        secret: bytes,
        *,
        bytes_max: int,
        kept_seconds: float,
        has_room: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._secret = secret
        self._bytes_max = bytes_max
        self._has_room = has_room
        self._now = now
        self._server = KeptAnswers(
            folder / SERVER_FOLDER / FILE_NAME,
            bytes_max=bytes_max,
            kept_seconds=kept_seconds,
            has_room=has_room,
            now=now,
        )
        self._batches: OrderedDict[str, KeptAnswers] = OrderedDict()

    def of(self, batch: BatchRecord) -> KeptAnswers | None:
        """Where the answers of a batch are kept; None when it shares none."""
        if batch.reuse is Reuse.OFF:
            return None
        if batch.reuse is Reuse.SERVER:
            return self._server
        found = self._batches.get(batch.id)
        if found is None:
            found = self._batches[batch.id] = KeptAnswers(
                self._folder / "work" / batch.id / FILE_NAME,
                bytes_max=self._bytes_max,
                kept_seconds=None,
                has_room=self._has_room,
                now=self._now,
            )
        self._batches.move_to_end(batch.id)
        while len(self._batches) > BATCHES_OPEN_MAX:
            self._batches.popitem(last=False)[1].close()
        return found

    def hasher(self, batch: BatchRecord, *parts: str) -> hashlib.blake2b:
        """The start of all keys of a batch: no two tenants have one in common, nor two batches that share only with
        themselves. The key of the data folder goes in, so that no client can make up two bodies with one key."""
        scope = batch.tenant if batch.reuse is Reuse.SERVER else f"{batch.tenant}\n{batch.id}"
        state = hashlib.blake2b(digest_size=KEY_BYTES, key=self._secret, person=_PERSON)
        state.update(msgspec.json.encode((batch.reuse.value, scope, *parts)) + b"\n")
        return state

    def take_away(self, batch_id: str) -> KeptAnswers | None:
        """A batch has ended: its own file, to be closed before its folder goes. It is found no more."""
        return self._batches.pop(batch_id, None)

    def trim(self) -> int:
        """Blocking."""
        return self._server.trim()

    def close(self) -> None:
        self._server.close()
        for kept in self._batches.values():
            kept.close()
        self._batches.clear()
