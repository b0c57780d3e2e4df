"""What an index keeps of each line: facts turned into records, of one line or of a block of lines at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from store.common_lines import CommonLines
from store.index import RECORD, RECORD_DTYPE
from store.line_shapes import NO_LADDER, U32_MAX, LineFacts
from store.lines import LINE_ERROR_CODES

NAMES_MAX: Final = 1000
"""Distinct model names, and urls, in one file."""

ERROR_PLACE: Final = {code: place for place, code in enumerate(LINE_ERROR_CODES)}
_NO_ID: Final = bytes(8)


class Names:
    """Distinct names in the order of their first use: a record holds a name's place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def place(self, name: str) -> int | None:
        """The name's place, made if need be; None when there are too many names."""
        place = self._places.get(name)
        if place is None and len(self._places) < NAMES_MAX:
            place = self._places[name] = len(self._places)
        return place

    def places(self, names: Sequence[str]) -> list[int] | None:
        """The place of each, or None when any has none."""
        try:
            return list(map(self._places.__getitem__, names))  # nearly always: all of them are known
        except KeyError:
            found = [place for place in map(self.place, names) if place is not None]
            return found if len(found) == len(names) else None


class Records:
    """Makes the records of one file.

    `secret` (32 bytes) keys the hashes of custom ids, so that no client can make up colliding ones. It goes in as salt
    and personalisation: they hide the function as well as a key does, which would cost a second compression a line.
    """

    def __init__(self, secret: bytes) -> None:
        self.models = Names()
        self.urls = Names()
        salt, person = secret[: hashlib.blake2b.SALT_SIZE], secret[hashlib.blake2b.SALT_SIZE :]
        self._salted = hashlib.blake2b(digest_size=8, salt=salt, person=person)

    def of_line(self, facts: LineFacts, line: int, offset: int, length: int) -> bytes:
        model, url = self.models.place(facts.model), self.urls.place(facts.url)
        if model is None or url is None:
            return error_record("invalid_request", line, offset, length)
        limits = (facts.prompt_bytes, facts.output_tokens, facts.sub_requests)
        custom_id = self._hashes([facts.custom_id])
        return RECORD.pack(offset, custom_id, facts.ladder, length, line, *limits, url, model, 0)

    def of_block(self, lines: CommonLines, first_line: int) -> npt.NDArray[Any] | None:
        """The records of neighbouring lines; None when they use too many names."""
        columns = lines.columns
        models, urls = self.models.places(columns.models), self.urls.places(columns.urls)
        if models is None or urls is None:
            return None
        table = np.zeros(len(models), RECORD_DTYPE)
        table["offset"] = lines.offsets
        table["custom_id"] = np.frombuffer(self._hashes(columns.custom_ids), "<u8")
        table["ladder"] = np.frombuffer(b"".join(columns.ladders), "<u8").reshape(-1, 4)
        table["length"] = lines.lengths
        table["line"] = np.arange(first_line, first_line + len(table))
        table["prompt_bytes"] = columns.prompt_bytes
        table["output_tokens"] = columns.output_tokens
        table["sub_requests"] = columns.sub_requests
        table["url"] = urls
        table["model"] = models
        return table

    def _hashes(self, custom_ids: Iterable[str]) -> bytes:
        """8 bytes each. Copying the salted state is cheaper than making it anew."""
        copy = self._salted.copy
        digests: list[bytes] = []
        for custom_id in custom_ids:
            state = copy()
            state.update(custom_id.encode())
            digests.append(state.digest())
        return b"".join(digests)


def error_record(code: str, line: int, offset: int, length: int) -> bytes:
    return RECORD.pack(offset, _NO_ID, NO_LADDER, min(length, U32_MAX), line, 0, 0, 0, 0, 0, ERROR_PLACE[code])
