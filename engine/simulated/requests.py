"""The request bodies that the simulation reads, and what it refuses, as vLLM refuses it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from engine.answers import error_result
from engine.protocol import EngineResult, ModelInfo
from engine.simulated.text import prompt_tokens

CHOICES_MAX = 128
TOP_LOGPROBS_MAX = 20

B = TypeVar("B")


class Rejected(Exception):
    """`result` is the refusal."""

    def __init__(self, result: EngineResult) -> None:
        super().__init__(result.body.decode())
        self.result = result


def reject(message: str, *, param: str | None = None, code: str | None = None, status_code: int = 400) -> Rejected:
    return Rejected(error_result(status_code, message, code=code, param=param))


@dataclass(frozen=True, slots=True)
class Prompt:
    """`content` is what tokens and prefix blocks are counted on; `text` is what it says."""

    content: bytes
    text: str

    @property
    def tokens(self) -> int:
        return prompt_tokens(self.content)


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


class GenerationFields(msgspec.Struct, kw_only=True):
    """What chat and completions share. The model, sampling and anything unknown do not change what is simulated."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    response_format: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else [text for text in self.stop or () if text]


class ChatBody(GenerationFields, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionBody(GenerationFields, kw_only=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: int | None = 16
    echo: bool = False


class EmbeddingBody(msgspec.Struct, kw_only=True):
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None


class ScoreBody(msgspec.Struct, kw_only=True):
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None


class RerankBody(msgspec.Struct, kw_only=True):
    query: str
    documents: str | list[str]
    top_n: int = 0


_MISSING = re.compile(r"missing required field `(\w+)`")
_AT_FIELD = re.compile(r"at `\$\.(\w+)")


def read_body(body: bytes, kind: type[B]) -> B:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = _MISSING.search(str(error)) or _AT_FIELD.search(str(error))
        raise reject(str(error), param=found.group(1) if found else None) from None


def read_chat(body: bytes) -> ChatBody:
    chat = read_body(body, ChatBody)
    if not chat.messages:
        raise reject("'messages' must hold at least one message.", param="messages")
    _check_generation(chat)
    if chat.top_logprobs is not None:
        if not chat.logprobs:
            raise reject("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        if not 0 <= chat.top_logprobs <= TOP_LOGPROBS_MAX:
            what = f"'top_logprobs' must be between 0 and {TOP_LOGPROBS_MAX}, got {chat.top_logprobs}."
            raise reject(what, param="top_logprobs")
    return chat


def read_completion(body: bytes) -> CompletionBody:
    completion = read_body(body, CompletionBody)
    _check_generation(completion)
    return completion


def _check_generation(fields: GenerationFields) -> None:
    if not 1 <= fields.choices <= CHOICES_MAX:
        raise reject(f"'n' must be between 1 and {CHOICES_MAX}, got {fields.n}.", param="n")
    if fields.max_tokens is not None and fields.max_tokens < 1:
        raise reject(f"'max_tokens' must be at least 1, got {fields.max_tokens}.", param="max_tokens")


def chat_prompt(messages: list[Message]) -> Prompt:
    said = [(message.role, content_text(message.content)) for message in messages]
    content = "".join(f"<|{role}|>{text}\n" for role, text in said)
    return Prompt(content.encode(), said[-1][1])


def content_text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return content or ""


def text_prompts(given: str | list[str | int | list[int]], param: str) -> list[Prompt]:
    """One prompt per string or token array; a flat array of integers is one prompt."""
    if isinstance(given, str):
        return [_text_prompt(given)]
    if not given:
        raise reject(f"'{param}' must not be empty.", param=param)
    if all(isinstance(item, int) for item in given):
        return [_token_prompt([item for item in given if isinstance(item, int)])]
    prompts: list[Prompt] = []
    for item in given:
        if isinstance(item, int) or item == []:
            raise reject(f"'{param}' must hold strings or non-empty token arrays.", param=param)
        prompts.append(_text_prompt(item) if isinstance(item, str) else _token_prompt(item))
    return prompts


def _text_prompt(text: str) -> Prompt:
    return Prompt(text.encode(), text)


def _token_prompt(tokens: list[int]) -> Prompt:
    if any(not 0 <= token < 2**32 for token in tokens):
        raise reject("A token id is out of range.", param="prompt")
    return Prompt(struct.pack(f"<{len(tokens)}I", *tokens), " ".join(map(str, tokens)))


def check_context(model: ModelInfo, prompt: Prompt, output_tokens: int, param: str) -> None:
    """vLLM's own words, so that whoever matches on them matches here too."""
    limit = model.context_tokens_max
    if limit is None or prompt.tokens + output_tokens <= limit:
        return
    raise reject(
        f"This model's maximum context length is {limit} tokens. However, you requested {output_tokens} output tokens "
        f"and your prompt contains {prompt.tokens} input tokens. Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )
