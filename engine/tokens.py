"""How many tokens a request's prompt has, counted with the model's own tokenizer and no engine.

transformers is imported when a tokenizer is opened; weights are never read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine import embedded
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE
from engine.vllm.source import context_tokens, hub_cache

_PAIR_TOKENS = 3
"""What separates the two texts of a pair: [CLS] a [SEP] b [SEP]."""

_SENTENCE_CONFIGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlnet_config.json")


class TokenizerError(Exception):
    """No tokenizer can be opened; the message says why and what to do."""


class PromptCounter:
    """A tokenizer with its chat template. `context_tokens_max` is what the model's own files say."""

    def __init__(self, tokenizer: Any, context_tokens_max: int | None) -> None:
        self._tokenizer = tokenizer
        self.context_tokens_max = context_tokens_max

    def count(self, endpoint: str, bodies: Sequence[bytes]) -> list[int | None]:
        """The tokens of each body's prompt, of its longest where it holds several; None where it cannot be said."""
        prompts = [self._prompts(endpoint, body) for body in bodies]
        texts = [text for prompt in prompts for text in prompt if isinstance(text, str)]
        lengths = iter(self._lengths(texts, add_special_tokens=endpoint not in (CHAT_COMPLETIONS, RESPONSES)))
        counts: list[int | None] = []
        for prompt in prompts:
            found = [next(lengths) if isinstance(text, str) else len(text) for text in prompt]
            if endpoint in (SCORE, RERANK) and len(found) > 1:
                counts.append(found[0] + max(found[1:]) + _PAIR_TOKENS)
            else:
                counts.append(max(found, default=None))
        return counts

    def _lengths(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[int]:
        if not texts:
            return []
        found = self._tokenizer(list(texts), add_special_tokens=add_special_tokens, verbose=False)
        return [len(ids) for ids in found["input_ids"]]

    def _prompts(self, endpoint: str, raw: bytes) -> list[str | list[int]]:
        """The texts, or token ids, that a body asks to be read; empty where its shape is the endpoint's to refuse."""
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []
        if not isinstance(body, Mapping) or body.get("truncate_prompt_tokens") is not None:
            return []
        if endpoint == CHAT_COMPLETIONS:
            return self._chat(body.get("messages"), body)
        if endpoint == RESPONSES:
            return self._chat(_messages_of(body), body)
        if endpoint == COMPLETIONS:
            return _texts(body.get("prompt"))
        if endpoint == EMBEDDINGS:
            return _texts(body.get("input"))
        return _pair(body)

    def _chat(self, messages: object, body: Mapping[str, Any]) -> list[str | list[int]]:
        if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
            return []
        flat = [{**message, "content": _text_of(message.get("content"))} for message in messages]
        extra = body.get("chat_template_kwargs")
        try:
            text = self._tokenizer.apply_chat_template(
                flat,
                tools=body.get("tools") or None,
                tokenize=False,
                add_generation_prompt=True,
                **(extra if isinstance(extra, Mapping) else {}),
            )
        except Exception:  # noqa: BLE001 (a template is a program of the model's author: it may raise anything)
            return []
        return [str(text)]


def open_counter(source: str) -> PromptCounter:
    """`source` is an embedded model's id, a local folder or a Hugging Face id. Blocks: reads, imports, may download."""
    found = embedded.find(source)
    if found is not None and not Path(source).is_dir():
        try:
            source = str(embedded.prepare(found))
        except embedded.EmbeddedError as error:
            raise TokenizerError(str(error)) from None
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise TokenizerError(f'counting tokens needs transformers: pip install "nightbatch[cpu]" ({error})') from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # noqa: BLE001 (files of any make: transformers raises what it likes)
        cause = str(error).strip().split("\n")[0]
        raise TokenizerError(f"no tokenizer in {source}: {cause}") from None
    return PromptCounter(tokenizer, context_of(_folder(source)))


def _folder(source: str) -> Path | None:
    if Path(source).is_dir():
        return Path(source)
    snapshots = hub_cache() / ("models--" + source.replace("/", "--")) / "snapshots"
    found = sorted(snapshots.glob("*/config.json")) if snapshots.is_dir() else []
    return found[-1].parent if found else None


def context_of(folder: Path | None) -> int | None:
    """The longest context: as vLLM takes it, what a sentence transformer was trained on, else the configuration's."""
    if folder is None:
        return None
    for name in _SENTENCE_CONFIGS:
        found = _read(folder / name).get("max_seq_length")
        if isinstance(found, int):
            return found
    return context_tokens(_read(folder / "config.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts(value: object) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    if value and all(isinstance(item, int) for item in value):
        return [value]
    return [item for item in value if isinstance(item, str | list)]


def _pair(body: Mapping[str, Any]) -> list[str | list[int]]:
    left = next((body[name] for name in ("query", "queries", "text_1", "data_1") if body.get(name) is not None), None)
    right = next(
        (body[name] for name in ("documents", "items", "text_2", "data_2") if body.get(name) is not None), None
    )
    first = max(map(_text_of, left if isinstance(left, list) else [left]), key=len, default="")
    return [first, *map(_text_of, right if isinstance(right, list) else [right])]


def _messages_of(body: Mapping[str, Any]) -> object:
    """A Responses request as a chat."""
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    asked = body.get("input")
    if isinstance(asked, str):
        return [*system, {"role": "user", "content": asked}]
    if not isinstance(asked, list):
        return None
    return [*system, *(item for item in asked if isinstance(item, Mapping) and "role" in item)]


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_text_of(part) for part in content)
    if isinstance(content, Mapping):
        return _text_of(content.get("text")) or _text_of(content.get("content"))
    return ""
