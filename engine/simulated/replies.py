"""The response bodies of the simulation, in vLLM's form: shaping is left to the code that shapes real answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from engine.protocol import CHAT_COMPLETIONS
from engine.simulated import requests as read
from engine.simulated.logprobs import chat_logprobs
from engine.simulated.profiles import SimulatedProfile
from engine.simulated.response_replies import response_fields
from engine.simulated.text import float32_bytes, similarity, vector
from engine.simulated.work import Output, Work, rerank_documents, score_pairs

_encoder = msgspec.json.Encoder()
DONE = b"data: [DONE]\n\n"


def reply(work: Work, profile: SimulatedProfile, *, cached_tokens: int = 0, aborted: bool = False) -> bytes:
    """The whole answer; `aborted` breaks it off half-way, as an engine does that is told to stop."""
    match work.endpoint:
        case "/v1/chat/completions":
            asked = read.read_body(work.body, read.ChatBody)
            choices = [_chat_choice(work, asked, number, aborted=aborted) for number in range(len(work.outputs))]
            return _encode(_head(work, "chat.completion"), choices=choices, usage=_usage(work, cached_tokens))
        case "/v1/responses":
            return _encoder.encode(response_fields(work, cached_tokens, aborted=aborted))
        case "/v1/completions":
            choices = [_text_choice(output, number, aborted=aborted) for number, output in enumerate(work.outputs)]
            return _encode(_head(work, "text_completion"), choices=choices, usage=_usage(work, cached_tokens))
        case "/v1/embeddings":
            return _encode(_head(work, "list"), data=_embeddings(work, profile), usage=_usage(work, 0))
        case "/v1/score":
            return _encode(_head(work, "list"), data=_scores(work, profile), usage=_usage(work, 0))
        case _:
            return _encoder.encode(_rerank(work, profile))


def _encode(head: dict[str, Any], **fields: Any) -> bytes:
    return _encoder.encode({**head, **fields})


def _head(work: Work, kind: str) -> dict[str, Any]:
    return {"id": answer_id(work), "object": kind, "created": work.model.created_at, "model": work.model.id}


def answer_id(work: Work) -> str:
    prefix = {"/v1/chat/completions": "chatcmpl", "/v1/completions": "cmpl"}.get(work.endpoint, "embd")
    return f"{prefix}-{work.seed:016x}"


def _usage(work: Work, cached_tokens: int) -> dict[str, Any]:
    prompt = sum(prompt.tokens for prompt in work.prompts)
    completion = sum(len(output.pieces) for output in work.outputs)
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**usage, "prompt_tokens_details": {"cached_tokens": cached_tokens}}


def _chat_choice(work: Work, asked: read.ChatBody, number: int, *, aborted: bool) -> dict[str, Any]:
    output = _broken_off(work.outputs[number]) if aborted else work.outputs[number]
    message: dict[str, Any] = {"role": "assistant", "content": output.text}
    if output.tool is not None:
        call = {"name": output.tool, "arguments": output.text}
        call_id = f"call_{work.seed:016x}{number:04x}"
        message = {"role": "assistant", "content": None, "tool_calls": [_tool_call(call_id, call)]}
    choice = {"index": number, "message": message, "finish_reason": output.finish_reason, "stop_reason": None}
    if asked.logprobs and output.tool is None:
        choice["logprobs"] = chat_logprobs(output, asked.top_logprobs or 0, work.seed + number)
    return choice


def _tool_call(call_id: str, function: dict[str, str]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": function}


def _text_choice(output: Output, number: int, *, aborted: bool) -> dict[str, Any]:
    output = _broken_off(output) if aborted else output
    return {"index": number, "text": output.text, "finish_reason": output.finish_reason, "stop_reason": None}


def _broken_off(output: Output) -> Output:
    return Output(output.pieces[: len(output.pieces) // 2], "abort", output.prefix, output.tool)


def _embeddings(work: Work, profile: SimulatedProfile) -> list[dict[str, Any]]:
    body = read.read_body(work.body, read.EmbeddingBody)
    dimensions = body.dimensions or profile.embedding_dimensions
    return [
        {"index": number, "object": "embedding", "embedding": _embedding(prompt.text, dimensions, body.encoding_format)}
        for number, prompt in enumerate(work.prompts)
    ]


def _embedding(text: str, dimensions: int, encoding_format: str | None) -> list[float] | str:
    values = vector(text, dimensions)
    return base64.b64encode(float32_bytes(values)).decode() if encoding_format == "base64" else values


def _scores(work: Work, profile: SimulatedProfile) -> list[dict[str, Any]]:
    return [
        {"index": number, "object": "score", "score": similarity(left, right, profile.embedding_dimensions)}
        for number, (left, right) in enumerate(score_pairs(work.body))
    ]


def _rerank(work: Work, profile: SimulatedProfile) -> dict[str, Any]:
    body = read.read_body(work.body, read.RerankBody)
    ranked: list[dict[str, Any]] = [
        {
            "index": number,
            "document": {"text": document},
            "relevance_score": similarity(body.query, document, profile.embedding_dimensions),
        }
        for number, document in enumerate(rerank_documents(body))
    ]
    ranked.sort(key=lambda result: (-result["relevance_score"], result["index"]))
    head = {"id": f"rerank-{work.seed:016x}", "model": work.model.id}
    return {**head, "results": ranked[: body.top_n or None], "usage": _usage(work, 0)}


def first_frames(work: Work) -> Iterator[bytes]:
    """What a chat stream says before the first token: the role of each choice."""
    if work.endpoint == CHAT_COMPLETIONS:
        for number in range(len(work.outputs)):
            yield _frame(work, number, {"role": "assistant", "content": ""}, None)


def token_frame(work: Work, number: int, start: int, stop: int) -> bytes:
    """The tokens `start` to `stop` of one choice; the last one carries the finish reason."""
    output = work.outputs[number]
    text = (output.prefix if start == 0 else "") + "".join(output.pieces[start:stop])
    finish_reason = output.finish_reason if stop >= len(output.pieces) else None
    if work.endpoint != CHAT_COMPLETIONS:
        return _frame(work, number, text, finish_reason)
    if output.tool is None:
        return _frame(work, number, {"content": text}, finish_reason)
    function = {"arguments": text, **({"name": output.tool} if start == 0 else {})}
    call: dict[str, Any] = {"index": 0, "function": function}
    if start == 0:
        call |= {"id": f"call_{work.seed:016x}{number:04x}", "type": "function"}
    return _frame(work, number, {"tool_calls": [call]}, finish_reason)


def usage_frame(work: Work, cached_tokens: int) -> bytes:
    return _event({**_head(work, _chunk_kind(work)), "choices": [], "usage": _usage(work, cached_tokens)})


def _frame(work: Work, number: int, said: dict[str, Any] | str, finish_reason: str | None) -> bytes:
    content = {"text": said} if isinstance(said, str) else {"delta": said}
    choice = {"index": number, **content, "logprobs": None, "finish_reason": finish_reason}
    frame = {**_head(work, _chunk_kind(work)), "choices": [choice]}
    return _event({**frame, "usage": None} if work.stream_usage else frame)


def _chunk_kind(work: Work) -> str:
    return "chat.completion.chunk" if work.endpoint == CHAT_COMPLETIONS else "text_completion"


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + _encoder.encode(fields) + b"\n\n"


def output_tokens(work: Work) -> Sequence[int]:
    """Output tokens of each sequence that the device runs: one per choice, or one of none per pooled prompt."""
    if work.outputs:
        return [max(len(output.pieces), 1) for output in work.outputs]
    return [0] * len(work.prompts)
