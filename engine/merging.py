"""Makes one answer of the answers to the slices of a request. Pure.

Items are put together as the engine wrote them; only their indices are written anew. What surrounds them is taken from
the first slice's answer, so the id is that one's; usage is the sum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from engine.protocol import COMPLETIONS, EMBEDDINGS, RERANK, SCORE, EngineResult, Usage
from engine.slices import Fields, Slices

_ITEMS = {EMBEDDINGS: "data", COMPLETIONS: "choices", SCORE: "data", RERANK: "results"}
_SUMMED = ("usage", "meta")
_NOTHING = msgspec.Raw(b"null")

_encode = msgspec.json.Encoder().encode
_decode_answer = msgspec.json.Decoder(Fields).decode
_decode_items = msgspec.json.Decoder(list[Fields]).decode
_decode_index = msgspec.json.Decoder(int).decode
_decode_score = msgspec.json.Decoder(float).decode


class Unmergeable(ValueError):
    """An answer does not hold exactly one item for each part of its slice; the message says what it holds."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the answer to slice `no` adds to the whole. `head` is what surrounds the items, of the first slice only;
    `ranks` orders the items of a ranking, best first."""

    no: int
    items: Sequence[bytes]
    ranks: Sequence[tuple[float, int]]
    head: Fields
    summed: Mapping[str, Any]
    usage: Usage


def merge(slices: Slices, results: Sequence[EngineResult]) -> EngineResult:
    """One answer of the answers of all slices; the first refusal, by position, is the refusal of the whole.

    Raises Unmergeable.
    """
    refusal = next((result for result in results if not result.ok), None)
    return refusal or join(slices, [read_part(slices, no, result) for no, result in enumerate(results)])


def read_part(slices: Slices, no: int, result: EngineResult) -> Part:
    """Read a slice's successful answer; done as each comes in, so that little is left to do at once. Raises
    Unmergeable."""
    name = _ITEMS[slices.endpoint]
    try:
        answer = _decode_answer(result.body)
        found = _decode_items(answer.get(name, b"null"))
        numbered = sorted(((_decode_index(item["index"]), item) for item in found), key=lambda pair: pair[0])
        scores = [_decode_score(item["relevance_score"]) for _, item in numbered] if slices.endpoint == RERANK else []
        summed = {key: msgspec.json.decode(answer[key]) for key in _SUMMED if key in answer}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise Unmergeable(f"the answer to slice {no} has no readable '{name}': {error!r}") from None
    wanted = slices.sub_requests(no)
    if [index for index, _ in numbered] != list(range(wanted)):
        raise Unmergeable(f"the answer to slice {no} has {len(found)} '{name}' and not exactly 0 to {wanted - 1}")
    first = slices.first_item(no)
    items = [_encode({**item, "index": first + index}) for index, item in numbered]
    ranks = [(-score, first + index) for index, score in enumerate(scores)]
    head = {key: _NOTHING if key == name else value.copy() for key, value in answer.items()} if no == 0 else {}
    return Part(no, items, ranks, head, summed, result.usage)


def join(slices: Slices, parts: Collection[Part]) -> EngineResult:
    """The whole answer, of the parts of all slices in any order."""
    assert len(parts) == len(slices)
    ordered = sorted(parts, key=lambda part: part.no)
    items = [item for part in ordered for item in part.items]
    if slices.endpoint == RERANK:
        items = _best(items, [rank for part in ordered for rank in part.ranks], slices.top_n)
    whole = {key: bytes(value) for key, value in ordered[0].head.items()}
    for key in _SUMMED:
        if key in whole:
            whole[key] = _encode(_sum([part.summed.get(key) for part in ordered]))
    usage = Usage(
        sum(part.usage.prompt_tokens for part in ordered),
        sum(part.usage.cached_tokens for part in ordered),
        sum(part.usage.completion_tokens for part in ordered),
    )
    return EngineResult(int(HTTPStatus.OK), _object(whole, _ITEMS[slices.endpoint], items), usage)


def _object(fields: Mapping[str, bytes], items_name: str, items: Sequence[bytes]) -> bytes:
    """A JSON object of encoded values, one of them the array of `items`; these may be many megabytes, copied once."""
    pieces: list[bytes] = []
    for name, value in fields.items():
        pieces += (b"," if pieces else b"{", _encode(name), b":")
        if name != items_name:
            pieces.append(value)
            continue
        pieces.append(b"[")
        for item in items:
            pieces += (item, b",")
        pieces[-1] = b"]"  # in the place of the last comma: a slice is never empty
    pieces.append(b"}")
    return b"".join(pieces)


def _best(items: Sequence[bytes], ranks: Sequence[tuple[float, int]], top_n: int) -> list[bytes]:
    """Best first, equals in the order of the documents; as many as the client asked for (0: all)."""
    order = sorted(range(len(items)), key=ranks.__getitem__)
    return [items[at] for at in order[: top_n or None]]


def _sum(values: Sequence[Any]) -> Any:
    """Numbers are added, in objects too; of anything else the first stands."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, dict) for value in given):
        names = dict.fromkeys(name for value in given for name in value)
        return {name: _sum([value.get(name) for value in given]) for name in names}
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return sum(given)
    return given[0] if given else None
