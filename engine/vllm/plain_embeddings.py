"""Embedding requests that ask for nothing unusual: read, and their answers written. Pure.

What is read here is only what vLLM would read in the same way: anything else is None, and goes to vLLM's own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Literal

import msgspec

from engine.protocol import EngineResult, Usage

Vector = list[float] | str
"""Numbers, or base64 of little-endian float32."""


class PlainRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The fields of vLLM's `EmbeddingCompletionRequest` that are known here, with its own defaults."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    user: str | None = None
    priority: int = 0

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class _Item(msgspec.Struct):
    index: int
    object: str
    embedding: Vector


class _Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class _Answer(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    data: list[_Item]
    usage: _Usage


_decode = msgspec.json.Decoder(PlainRequest).decode
_encode = msgspec.json.Encoder().encode


def read(body: bytes) -> PlainRequest | None:
    try:
        found = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.texts else None


def write(request_id: str, created: int, model: str, vectors: Sequence[Vector], prompt_tokens: int) -> EngineResult:
    """The answer in OpenAI's shape, its fields in vLLM's order."""
    items = [_Item(index, "embedding", vector) for index, vector in enumerate(vectors)]
    answer = _Answer(request_id, "list", created, model, items, _Usage(prompt_tokens, prompt_tokens))
    return EngineResult(int(HTTPStatus.OK), _encode(answer), Usage(prompt_tokens))
