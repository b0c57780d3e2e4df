"""From a request to everything its answer will be, before a single virtual step: a pure function of model, endpoint and
body. The device decides only when it is ready."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import xxhash

from engine.bodies import InvalidBody, open_body, prepare_body, wants_stream_usage
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, EngineRequest, ModelInfo
from engine.simulated import requests as read
from engine.simulated.profiles import SimulatedProfile
from engine.simulated.requests import Prompt, Rejected, reject
from engine.simulated.responses import as_chat
from engine.simulated.schemas import UnsupportedSchema, instance
from engine.simulated.text import pieces_of, words


@dataclass(frozen=True, slots=True)
class Output:
    """What one sequence generates, token by token. `tool` is the called function when it is a tool call."""

    pieces: tuple[str, ...]
    finish_reason: str
    prefix: str = ""
    tool: str | None = None

    @property
    def text(self) -> str:
        return self.prefix + "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Work:
    """`outputs` holds the choices of the first prompt, then of the second ...; empty for pooling. `late_rejection` is a
    refusal that shows only once the request is running (a grammar that does not compile)."""

    endpoint: str
    model: ModelInfo
    seed: int
    body: bytes
    prompts: tuple[Prompt, ...]
    outputs: tuple[Output, ...] = ()
    late_rejection: Rejected | None = None
    stream_usage: bool = False

    @property
    def choices_per_prompt(self) -> int:
        return len(self.outputs) // len(self.prompts)


def plan_work(request: EngineRequest, model: ModelInfo | None, profile: SimulatedProfile) -> Work:
    """Raises Rejected for what vLLM would refuse before it generates."""
    if model is None:
        raise reject(
            f"The model `{request.model}` does not exist.", param="model", code="model_not_found", status_code=404
        )
    if request.endpoint not in model.endpoints:
        raise reject(f"The model `{model.id}` does not support {request.endpoint}.", param="model")
    try:
        body = prepare_body(request.body, model=model.id, endpoint=request.endpoint)
        options = open_body(request.body).get("stream_options")
    except InvalidBody as error:
        raise reject(str(error), param=error.param) from None
    # The order of keys and the spaces between them do not change what is asked.
    fields = msgspec.json.decode(body)
    seed = _seed(fields, model, request.endpoint)
    stream_usage = options is not None and wants_stream_usage(bytes(options))
    match request.endpoint:
        case "/v1/chat/completions":
            return _plan_chat(CHAT_COMPLETIONS, read.read_chat(body), model, seed, body, profile, stream_usage)
        case "/v1/responses":
            return _plan_chat(RESPONSES, as_chat(body), model, seed, body, profile, stream_usage)
        case "/v1/completions":
            rest_seed = _seed({**fields, "prompt": None}, model, request.endpoint)
            return _plan_completion(model, seed, rest_seed, body, profile, stream_usage)
        case _:
            return Work(request.endpoint, model, seed, body, _pooling_prompts(model, request.endpoint, body))


def _seed(fields: Mapping[str, Any], model: ModelInfo, endpoint: str) -> int:
    canonical = msgspec.json.encode(fields, order="sorted")
    return xxhash.xxh3_64_intdigest(canonical, seed=xxhash.xxh3_64_intdigest(f"{model.id} {endpoint}".encode()))


def _plan_chat(
    endpoint: str,
    chat: read.ChatBody,
    model: ModelInfo,
    seed: int,
    body: bytes,
    profile: SimulatedProfile,
    stream_usage: bool,
) -> Work:
    prompt = read.chat_prompt(chat.messages)
    limit = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
    limit = _output_limit(model, prompt, limit, "input" if endpoint == RESPONSES else "messages")
    try:
        outputs = tuple(_chat_output(chat, _chance(seed + choice), limit, profile) for choice in range(chat.choices))
    except UnsupportedSchema as error:
        rejection = reject(f"Invalid 'response_format': {error}", param="response_format", code="invalid_json_schema")
        outputs = (Output(("",), "stop"),)
        return Work(endpoint, model, seed, body, (prompt,), outputs, rejection)
    return Work(endpoint, model, seed, body, (prompt,), outputs, stream_usage=stream_usage)


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 (a simulation)


def _chat_output(chat: read.ChatBody, chance: random.Random, limit: int, profile: SimulatedProfile) -> Output:
    tool = _forced_tool(chat)
    if tool is not None:
        name, parameters = tool
        arguments = msgspec.json.encode(instance(parameters, chance)).decode()
        cut = _cut(pieces_of(arguments), limit, [], "tool_calls")
        return Output(cut.pieces, cut.finish_reason, tool=name)
    return _free_output(chat, chance, limit, profile)


def _plan_completion(
    model: ModelInfo, seed: int, rest_seed: int, body: bytes, profile: SimulatedProfile, stream_usage: bool
) -> Work:
    """A prompt's choices depend on that prompt and on the rest of the body, not on the prompts beside it."""
    completion = read.read_completion(body)
    prompts = tuple(read.text_prompts(completion.prompt, "prompt"))
    outputs: list[Output] = []
    for prompt in prompts:
        limit = _output_limit(model, prompt, completion.max_tokens, "prompt")
        prompt_seed = xxhash.xxh3_64_intdigest(prompt.content, seed=rest_seed)
        for choice in range(completion.choices):
            made = _free_output(completion, _chance(prompt_seed + choice), limit, profile)
            outputs.append(Output(made.pieces, made.finish_reason, prompt.text if completion.echo else ""))
    return Work(COMPLETIONS, model, seed, body, prompts, tuple(outputs), stream_usage=stream_usage)


def _free_output(fields: read.GenerationFields, chance: random.Random, limit: int, profile: SimulatedProfile) -> Output:
    """JSON when a format asks for it, else as many words as chance gives."""
    schema = _schema_of(fields.response_format)
    if schema is not None:
        return _cut(pieces_of(msgspec.json.encode(instance(schema, chance)).decode()), limit, [], "stop")
    natural = limit if fields.ignore_eos else 1 + int(chance.expovariate(1.0 / profile.output_tokens_mean))
    natural = max(natural, fields.min_tokens or 0)
    return _cut(words(chance, min(natural, limit + 1)), limit, fields.stops, "stop", full=fields.ignore_eos)


def _cut(pieces: list[str], limit: int, stops: list[str], natural_end: str, *, full: bool = False) -> Output:
    """Stop at the first stop string, which is not part of the text, or at the limit."""
    finish_reason = "length" if full or len(pieces) > limit else natural_end
    pieces = pieces[:limit]
    text = "".join(pieces)
    found = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    if found:
        return Output(tuple(_first_characters(pieces, min(found))), natural_end)
    return Output(tuple(pieces), finish_reason)


def _first_characters(pieces: list[str], characters: int) -> list[str]:
    """The pieces up to a character; the stop string's own first token was generated too, so one may be cut short."""
    kept: list[str] = []
    for piece in pieces:
        kept.append(piece[:characters])
        characters -= len(piece)
        if characters < 0:
            break
    return kept


def _output_limit(model: ModelInfo, prompt: Prompt, asked: int | None, param: str) -> int:
    read.check_context(model, prompt, asked or 1, param)
    if asked is not None:
        return asked
    return (model.context_tokens_max or prompt.tokens + 1_024) - prompt.tokens


def _schema_of(response_format: dict[str, Any] | None) -> Any:
    match response_format:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
        case _:
            raise reject(
                "'response_format' must be of type text, json_object, or json_schema with a schema.",
                param="response_format",
            )


def _forced_tool(chat: read.ChatBody) -> tuple[str, Any] | None:
    """The function that must be called; with `tool_choice` auto the simulation always answers in words."""
    match chat.tool_choice:
        case None | "auto" | "none":
            return None
        case "required":
            wanted = None
        case {"function": {"name": wanted}}:
            pass
        case _:
            raise reject("'tool_choice' must be none, auto, required, or name a function.", param="tool_choice")
    for tool in chat.tools or ():
        match tool:
            case {"function": {"name": str(name), **rest}} if wanted in (None, name):
                return name, rest.get("parameters") or {"type": "object"}
    raise reject("'tool_choice' asks for a function that 'tools' does not hold.", param="tool_choice")


def _pooling_prompts(model: ModelInfo, endpoint: str, body: bytes) -> tuple[Prompt, ...]:
    match endpoint:
        case "/v1/embeddings":
            embedding = read.read_body(body, read.EmbeddingBody)
            _check_embedding(embedding)
            prompts = read.text_prompts(embedding.input, "input")
            if embedding.truncate_prompt_tokens is not None:
                return tuple(_truncated(prompt, embedding.truncate_prompt_tokens, model) for prompt in prompts)
        case "/v1/score":
            prompts = [Prompt(f"{left}\n{right}".encode(), left) for left, right in score_pairs(body)]
        case "/v1/rerank":
            rerank = read.read_body(body, read.RerankBody)
            documents = rerank_documents(rerank)
            prompts = [Prompt(f"{rerank.query}\n{document}".encode(), document) for document in documents]
        case _:
            raise reject(f"{endpoint} is not simulated.", status_code=404)
    for prompt in prompts:
        read.check_context(model, prompt, 0, "input")
    return tuple(prompts)


def _check_embedding(embedding: read.EmbeddingBody) -> None:
    if embedding.encoding_format not in (None, "float", "base64"):
        raise reject("'encoding_format' must be float or base64.", param="encoding_format")
    if embedding.dimensions is not None and embedding.dimensions < 1:
        raise reject("'dimensions' must be at least 1.", param="dimensions")


def _truncated(prompt: Prompt, tokens: int, model: ModelInfo) -> Prompt:
    kept = tokens if tokens >= 0 else model.context_tokens_max or prompt.tokens
    return Prompt(prompt.content[: kept * 4], prompt.text[: kept * 4])


def score_pairs(body: bytes) -> list[tuple[str, str]]:
    """One left text against each right one, or pairwise when both are as many."""
    score = read.read_body(body, read.ScoreBody)
    left = next((side for side in (score.text_1, score.queries, score.data_1) if side is not None), None)
    right = next(
        (side for side in (score.text_2, score.documents, score.items, score.data_2) if side is not None), None
    )
    if not left or not right:
        raise reject("A score needs 'text_1' and 'text_2' (or 'queries' and 'documents').", param="text_1")
    lefts = [left] if isinstance(left, str) else left
    rights = [right] if isinstance(right, str) else right
    if len(lefts) == 1:
        lefts = lefts * len(rights)
    if len(lefts) != len(rights):
        raise reject(f"{len(lefts)} texts cannot be scored against {len(rights)}: 1 to n or n to n.", param="text_1")
    return list(zip(lefts, rights, strict=True))


def rerank_documents(rerank: read.RerankBody) -> list[str]:
    documents = [rerank.documents] if isinstance(rerank.documents, str) else rerank.documents
    if not documents:
        raise reject("'documents' must hold at least one document.", param="documents")
    return documents
