"""`/v1/responses` in the simulation: a request read as the conversation that it is."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.simulated import requests as read
from engine.simulated.requests import ChatBody, Message, reject


class ResponsesBody(msgspec.Struct, kw_only=True):
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    ignore_eos: bool = False


def as_chat(body: bytes) -> ChatBody:
    """Instructions are a system message; items of the input are messages, and what tools returned."""
    asked = read.read_body(body, ResponsesBody)
    if asked.max_output_tokens is not None and asked.max_output_tokens < 1:
        what = f"'max_output_tokens' must be at least 1, got {asked.max_output_tokens}."
        raise reject(what, param="max_output_tokens")
    items = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    if not items:
        raise reject("'input' must hold at least one item.", param="input")
    messages = [Message("system", asked.instructions)] if asked.instructions else []
    messages += [_message(item) for item in items]
    return ChatBody(
        messages=messages,
        max_tokens=asked.max_output_tokens,
        response_format=_response_format(asked.text),
        tools=[_tool(tool) for tool in asked.tools or ()],
        tool_choice=_tool_choice(asked.tool_choice),
        ignore_eos=asked.ignore_eos,
    )


def _message(item: dict[str, Any]) -> Message:
    kind = item.get("type", "message")
    if kind == "function_call_output":
        return Message("tool", str(item.get("output", "")))
    if kind == "function_call":
        return Message("assistant", str(item.get("arguments", "")))
    if kind != "message" or not isinstance(item.get("role"), str):
        raise reject(f"'input' holds an item that is no message: type {str(kind)[:40]!r}.", param="input")
    return Message(item["role"], item.get("content"))


def _response_format(text: dict[str, Any] | None) -> dict[str, Any] | None:
    """`text.format` names schema and name beside `type`; a chat has them one level down."""
    form = (text or {}).get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {"name": form.get("name"), "schema": form.get("schema")}}
    return form if isinstance(form, dict) else None


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(choice, dict) and "name" in choice:
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice
