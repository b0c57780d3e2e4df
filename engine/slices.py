"""Cuts a request of many parts into slices that run as requests of their own; `engine.merging` joins the answers. Pure.

What can be cut are the inputs of embeddings, the prompts of completions, and the documents of a score or a ranking: a
model looks at each of them without the others. `n` is never cut, so a chat request stays whole: with a `seed`, vLLM
draws choice k from seed + k, and requests of one choice each would all give the first. Whatever is odd about a body
stays whole too: its engine says what it thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from engine.bodies import InvalidBody, open_body
from engine.protocol import COMPLETIONS, EMBEDDINGS, RERANK, SCORE

Fields = dict[str, msgspec.Raw]

_SCORE_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
_SCORE_FIELDS = frozenset(name for pair in _SCORE_PAIRS for name in pair)
_NULL = b"null"

_encode = msgspec.json.Encoder().encode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_token_lists = msgspec.json.Decoder(list[list[int]]).decode
_decode_objects_or_texts = msgspec.json.Decoder(list[str | dict[str, msgspec.Raw]]).decode
_decode_count = msgspec.json.Decoder(int).decode


@dataclass(frozen=True, slots=True)
class Slices:
    """`columns` are the lists that are cut, each as the inside of one JSON array per slice. Slice k holds the parts
    from `starts[k]` up to `starts[k + 1]`, and each part makes `items_each` items of the answer."""

    endpoint: str
    shared: Fields
    columns: Mapping[str, Sequence[bytes]]
    starts: Sequence[int]
    items_each: int = 1
    top_n: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def body(self, no: int) -> bytes:
        cut = {name: msgspec.Raw(b"[" + column[no] + b"]") for name, column in self.columns.items()}
        return _encode({**self.shared, **cut})

    def first_item(self, no: int) -> int:
        return self.starts[no] * self.items_each

    def sub_requests(self, no: int) -> int:
        return (self.starts[no + 1] - self.starts[no]) * self.items_each

    def shares(self) -> list[float]:
        """How much of the whole each slice is, by its bytes or by its parts, whichever says more."""
        sizes = [sum(map(len, chunks)) for chunks in zip(*self.columns.values(), strict=True)]
        whole = max(sum(sizes), 1)
        parts = [(stop - start) / self.starts[-1] for start, stop in pairwise(self.starts)]
        return [max(part, size / whole) for part, size in zip(parts, sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class _Divisible:
    columns: Mapping[str, list[msgspec.Raw]]
    items_each: int = 1
    top_n: int = 0


def split(endpoint: str, body: bytes, slice_sub_requests_max: int) -> Slices | None:
    """Slices of about equal size; None for a body that cannot be cut, or need not be.

    A part that is larger than the limit by itself (a prompt with a large `n`) is a slice by itself.
    """
    read = _READERS.get(endpoint)
    if read is None:
        return None
    try:
        fields = open_body(body)
        found = read(fields)
    except (InvalidBody, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found is None:
        return None
    parts = len(next(iter(found.columns.values())))
    count = -(-parts // max(1, slice_sub_requests_max // found.items_each))
    if count < 2:
        return None
    starts = [parts * no // count for no in range(count + 1)]
    columns = {name: [b",".join(raw[a:b]) for a, b in pairwise(starts)] for name, raw in found.columns.items()}
    dropped = {"top_n", *columns} if endpoint == RERANK else set(columns)
    shared = {name: value for name, value in fields.items() if name not in dropped}
    return Slices(endpoint, shared, columns, starts, found.items_each, found.top_n)


def _given(fields: Fields, name: str) -> bytes | None:
    value = fields.get(name)
    return None if value is None or bytes(value) == _NULL else bytes(value)


def _prompts(raw: bytes | None) -> list[msgspec.Raw] | None:
    """The elements of an array of texts or of token lists; None for anything else, a mixture of both included."""
    if raw is None or not raw.startswith(b"["):
        return None
    try:
        _decode_texts(raw)
    except msgspec.ValidationError:
        _decode_token_lists(raw)
    return _decode_list(raw)


def _count(raw: bytes | None, default: int) -> int:
    return default if raw is None else _decode_count(raw)


def _read_embeddings(fields: Fields) -> _Divisible | None:
    in_json = _given(fields, "encoding_format") in (None, b'"float"', b'"base64"')
    inputs = _prompts(_given(fields, "input"))
    return _Divisible({"input": inputs}) if inputs and in_json and "messages" not in fields else None


def _read_completions(fields: Fields) -> _Divisible | None:
    choices = _count(fields.get("n"), 1)
    prompts = _prompts(_given(fields, "prompt"))
    if not prompts or choices < 1 or _given(fields, "prompt_embeds") is not None:
        return None
    return _Divisible({"prompt": prompts}, items_each=choices)


def _read_score(fields: Fields) -> _Divisible | None:
    """One text against many, or many against as many: then both sides are cut alike."""
    named = {name for name in _SCORE_FIELDS if _given(fields, name) is not None}
    pair = next((pair for pair in _SCORE_PAIRS if named == set(pair)), None)
    if pair is None:
        return None
    left, right = fields[pair[0]], fields[pair[1]]
    documents = _documents(right)
    if bytes(left).startswith(b"["):
        _decode_objects_or_texts(left)
        queries = _decode_list(left)
        if len(queries) == len(documents) > 1:
            return _Divisible({pair[0]: queries, pair[1]: documents})
        if len(queries) != 1:
            return None
    return _Divisible({pair[1]: documents}) if documents else None


def _read_rerank(fields: Fields) -> _Divisible | None:
    top_n = _count(fields.get("top_n"), 0)
    documents = _documents(fields.get("documents", msgspec.Raw(_NULL)))
    return _Divisible({"documents": documents}, top_n=top_n) if documents and top_n >= 0 else None


def _documents(raw: msgspec.Raw) -> list[msgspec.Raw]:
    _decode_objects_or_texts(raw)
    return _decode_list(raw)


_READERS: Mapping[str, Callable[[Fields], _Divisible | None]] = {
    EMBEDDINGS: _read_embeddings,
    COMPLETIONS: _read_completions,
    SCORE: _read_score,
    RERANK: _read_rerank,
}
