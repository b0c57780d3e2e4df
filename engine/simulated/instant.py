"""Answers that cost next to nothing, for measuring what stands around an engine.

A plain chat (texts, one choice, no format, no tools) is answered from its bytes with a few words and a true count of
tokens. Whatever else is asked for is left to the simulation.
"""

from __future__ import annotations

from typing import Final

import msgspec
import xxhash

from engine.protocol import CHAT_COMPLETIONS, EngineRequest, EngineResult, ModelInfo, Usage
from engine.simulated.text import BYTES_PER_TOKEN, WORDS

WORDS_MAX: Final = 8
"""Length of the longest answer, in words of one token each; the digest of the body chooses how many and which."""

TEMPLATE_BYTES: Final = len("<||>\n")
"""What a chat template puts around a message, beside its role."""


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Plain(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Only what does not change the shape of an answer: any other field is for the simulation to read."""

    model: str = ""
    messages: list[_Message] = []
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    user: str | None = None


_decode = msgspec.json.Decoder(_Plain).decode
_BODY: Final = (
    b'{"id":"chatcmpl-%016x","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b","refusal":null},"finish_reason":"%b","logprobs":null}],"usage":'
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0}}}'
)


def answer(request: EngineRequest, model: ModelInfo) -> EngineResult | None:
    """A function of the request alone; None when it is not a plain chat that fits into the model's context."""
    if request.endpoint != CHAT_COMPLETIONS or CHAT_COMPLETIONS not in model.endpoints:
        return None
    try:
        body = _decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    prompt_bytes = sum(TEMPLATE_BYTES + len(one.role) + len(one.content.encode()) for one in body.messages)
    prompt_tokens = -(-prompt_bytes // BYTES_PER_TOKEN)
    longest = model.context_tokens_max
    if not body.messages or (limit is not None and limit < 1):
        return None
    if longest is not None and prompt_tokens + (limit or 1) > longest:
        return None
    digest = xxhash.xxh3_64_intdigest(request.body)
    wanted = 1 + digest % WORDS_MAX
    words = wanted if limit is None else min(wanted, limit)
    text = b" ".join([WORDS[(digest >> (7 * place + 8)) % len(WORDS)] for place in range(words)])
    made = _BODY % (
        digest,
        model.created_at,
        msgspec.json.encode(model.id),
        text,
        b"stop" if words == wanted else b"length",
        prompt_tokens,
        words,
        prompt_tokens + words,
    )
    return EngineResult(200, made, Usage(prompt_tokens, 0, words))
