"""Embeddings straight from the engine, past vLLM's serving class, which costs a short text more than its vector does.

The engine, the tokenizer, the parameters and their checks are vLLM's own; what is left out is the passage of every text
through request models, threads, response models and back. Whatever is not plain, or goes wrong before the engine has
answered, is None: the serving class then answers, in its own words.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.pooling.embed.io_processor import EmbedIOProcessor
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.entrypoints.pooling.embed.serving import ServingEmbedding
from vllm.entrypoints.pooling.utils import get_pooling_output_encoder
from vllm.exceptions import VLLMValidationError
from vllm.utils import random_uuid
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from engine.protocol import EngineResult
from engine.vllm import plain_embeddings
from engine.vllm.answering import EngineDied
from engine.vllm.plain_embeddings import PlainRequest
from engine.vllm.rendering import Rendering

WRITTEN_ON_LOOP_MAX = 64
"""Vectors of an answer that are written at once (30 microseconds each); more are written in a thread."""

PARAMETERS_KEPT = 64

log = logging.getLogger(__name__)


class _Unplain(Exception):
    """Nothing that is answered here."""


class DirectEmbeddings:
    """Of one model. `answer` may be called for any body of the embeddings endpoint."""

    def __init__(self, engine: AsyncLLM, model_id: str) -> None:
        self._engine = engine
        self._model_id = model_id
        self._config = engine.model_config
        self._renderer = engine.renderer
        self._tokenizer = engine.renderer.get_tokenizer()
        self._executor = engine.renderer._executor  # where the serving class tokenizes too: one after the other
        self._rendering: Rendering[Any, Any] = Rendering(self._render, self._executor)
        self._tokenizing = functools.lru_cache(PARAMETERS_KEPT)(self._build_tokenizing)
        self._pooling = functools.lru_cache(PARAMETERS_KEPT)(self._build_pooling)
        self._writers = {name: get_pooling_output_encoder(name, "float32", "native") for name in ("float", "base64")}
        self._has_failed = False

    async def answer(self, body: bytes) -> EngineResult | None:
        asked = plain_embeddings.read(body)
        if asked is None or asked.model != self._model_id:
            return None
        try:
            return await self._embed(asked)
        except (VLLMValidationError, _Unplain):
            return None
        except Exception as error:
            if self._engine.errored or isinstance(error, EngineDeadError):
                raise EngineDied(str(error)) from error
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        """Once: an answer is found all the same, only slower."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("embeddings go through vLLM's serving class, at least some of them: %r", error)

    async def _embed(self, asked: PlainRequest) -> EngineResult:
        params = self._pooling(asked.dimensions)
        prompts = await self._rendering.render(asked.texts, self._tokenizing(asked.truncate_prompt_tokens))
        if any(prompt is None for prompt in prompts):
            raise _Unplain
        created, name = int(time.time()), f"embd-{random_uuid()}"
        if len(prompts) == 1:
            outputs = [await self._one(prompts[0], params, f"{name}-0", asked.priority)]
        else:
            each = (self._one(prompt, params, f"{name}-{no}", asked.priority) for no, prompt in enumerate(prompts))
            outputs = await asyncio.gather(*each)
        if len(outputs) <= WRITTEN_ON_LOOP_MAX:
            return self._write(asked, name, created, outputs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._write, asked, name, created, outputs)

    async def _one(self, prompt: Any, params: Any, name: str, priority: int) -> Any:
        found = None
        async for output in self._engine.encode(prompt, params, name, priority=priority):
            found = output
        if found is None or found.error is not None:
            raise _Unplain
        return found

    def _write(self, asked: PlainRequest, name: str, created: int, outputs: Sequence[Any]) -> EngineResult:
        write = self._writers[asked.encoding_format]
        tokens = sum(len(output.prompt_token_ids) for output in outputs)
        return plain_embeddings.write(name, created, self._model_id, [write(output) for output in outputs], tokens)

    def _build_pooling(self, dimensions: int | None) -> Any:
        params = EmbeddingCompletionRequest(input="", dimensions=dimensions).to_pooling_params()
        params.verify(self._config)
        return params

    def _build_tokenizing(self, truncate_prompt_tokens: int | None) -> Any:
        request = EmbeddingCompletionRequest(input="", truncate_prompt_tokens=truncate_prompt_tokens)
        return request.build_tok_params(self._config)

    def _render(self, texts: Sequence[str], how: Any) -> list[Any]:
        """As vLLM's renderer does, but for the one call of the tokenizer. None: vLLM refuses the text."""
        arrived_at = time.time()
        prompts = [self._checked(text, how) for text in texts]
        kept = [prompt["prompt"] for prompt in prompts if prompt is not None]
        found = iter(self._tokenizer(kept, **how.get_encode_kwargs())["input_ids"] if kept else ())
        return [None if prompt is None else self._finished(prompt, next(found), how, arrived_at) for prompt in prompts]

    def _checked(self, text: str, how: Any) -> Any:
        try:
            return how.apply_pre_tokenization(self._tokenizer, {"prompt": text})
        except VLLMValidationError:
            return None

    def _finished(self, prompt: Any, token_ids: Sequence[int], how: Any, arrived_at: float) -> Any:
        try:
            tokens = {**prompt, "prompt_token_ids": list(token_ids)}
            tokens = how.apply_post_tokenization(self._tokenizer, tokens)
            return self._renderer.process_for_engine(tokens, arrived_at, tok_params=how)
        except VLLMValidationError:
            return None


def direct_embeddings(engine: AsyncLLM, handler: Any, model_id: str) -> DirectEmbeddings | None:
    """None where more happens between a text and its vector than is done here."""
    if type(handler) is not ServingEmbedding or type(handler.io_processor) is not EmbedIOProcessor:
        return None
    config = engine.model_config
    tokenizer = engine.renderer.tokenizer
    is_plain = (
        not handler.io_processor.enable_chunked_processing
        and not config.is_encoder_decoder
        and not config.supports_multimodal_inputs
        and handler.request_logger is None
        and getattr(tokenizer, "is_fast", False)
    )
    return DirectEmbeddings(engine, model_id) if is_plain else None
