"""The online endpoints: one request, answered now by an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from engine.protocol import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE_ENDPOINTS,
    RERANK,
    RESPONSES,
    SCORE,
    STREAM_ENDPOINTS,
    Engine,
    EngineResult,
)
from server import metrics
from server.auth import TenantDep
from server.context import ApiDep
from server.disconnect import unless_gone
from server.openai.dispatch import try_engines
from server.openai.online_call import read_call
from server.openai.service_tier import FIELD as SERVICE_TIER
from server.openai.service_tier import KNOWN as SERVICE_TIERS
from server.openai.service_tier import stamped
from server.openai.shapes import error_docs
from server.openai.streaming import EventStream, answer

router = APIRouter(tags=["Online"])

SUMMARIES = {
    CHAT_COMPLETIONS: "Answer a conversation",
    COMPLETIONS: "Continue a text",
    RESPONSES: "Answer a conversation, as a Response",
    EMBEDDINGS: "Embed texts",
    SCORE: "Score pairs of texts",
    RERANK: "Order documents by relevance",
}


def _handler(endpoint: str) -> Callable[..., Awaitable[Response]]:
    async def answer_online(request: Request, api: ApiDep, tenant: TenantDep) -> Response:
        call = await read_call(request, api, endpoint)
        if call.stream:
            return EventStream(api, call)

        async def attempt(engine: Engine, number: int) -> EngineResult:
            return await engine.generate(call.request(number))

        with metrics.online(endpoint, flex=call.flex) as outcome:
            result = await unless_gone(request.receive, try_engines(api, call, attempt))
            if not result.ok:
                outcome.rejected()
        return answer(stamped(result, call.service_tier))

    return answer_online


def _docs(endpoint: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint in STREAM_ENDPOINTS:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    fields: dict[str, Any] = {"model": {"type": "string"}}
    if endpoint in GENERATE_ENDPOINTS:
        fields[SERVICE_TIER] = {"type": ["string", "null"], "enum": [*SERVICE_TIERS, None]}
    return {
        "operation_id": endpoint.removeprefix("/v1/").replace("/", "_"),
        "summary": SUMMARIES[endpoint],
        "description": "The engine's own endpoint; fields that could hurt other requests are taken away.",
        "responses": {**error_docs(400, 404, 413, 415, 429, 503), 200: {"content": content}},
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["model"],
                            "properties": fields,
                            "additionalProperties": True,
                        }
                    }
                },
            }
        },
    }


for _endpoint in SUMMARIES:
    router.add_api_route(
        _endpoint.removeprefix("/v1"),
        _handler(_endpoint),
        methods=["POST"],
        response_class=Response,
        **_docs(_endpoint),
    )
