"""`/v1/responses` in the simulation: the answer in the form of OpenAI's Response."""

from __future__ import annotations

from typing import Any

from engine.simulated import requests as read
from engine.simulated.responses import ResponsesBody
from engine.simulated.work import Output, Work


def response_fields(work: Work, cached_tokens: int, *, aborted: bool) -> dict[str, Any]:
    asked = read.read_body(work.body, ResponsesBody)
    output = work.outputs[0]
    is_cut = output.finish_reason == "length"
    prompt = sum(one.tokens for one in work.prompts)
    completion = len(output.pieces)
    return {
        "id": f"resp_{work.seed:016x}",
        "object": "response",
        "created_at": work.model.created_at,
        "model": work.model.id,
        "status": "cancelled" if aborted else "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": asked.instructions,
        "metadata": asked.metadata,
        "max_output_tokens": asked.max_output_tokens,
        "output": [_item(work, output)],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "text": asked.text or {"format": {"type": "text"}},
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        },
    }


def _item(work: Work, output: Output) -> dict[str, Any]:
    status = "incomplete" if output.finish_reason == "length" else "completed"
    if output.tool is not None:
        call = f"{work.seed:016x}"
        return {
            "type": "function_call",
            "id": f"fc_{call}",
            "call_id": f"call_{call}",
            "name": output.tool,
            "arguments": output.text,
            "status": status,
        }
    part = {"type": "output_text", "text": output.text, "annotations": [], "logprobs": []}
    return {
        "type": "message",
        "id": f"msg_{work.seed:016x}",
        "role": "assistant",
        "status": status,
        "content": [part],
    }
