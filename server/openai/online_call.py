"""One online request, checked: what it asks of which model, before any engine sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request

from engine.protocol import (
    BATCH_PRIORITY,
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    GENERATE_ENDPOINTS,
    ONLINE_PRIORITY,
    STREAM_ENDPOINTS,
    EngineRequest,
    ModelInfo,
)
from server.bodies import decode_json, read_json_bytes
from server.context import Api
from server.errors import ApiError, invalid, missing
from server.openai.models import resolve_model
from server.openai.service_tier import FIELD as SERVICE_TIER
from server.openai.service_tier import FLEX, tier_of

SUB_REQUESTS_MAX = 65_536
"""A bound on what a body may claim to fan out to; the engine has its own, lower ones."""


@dataclass(frozen=True, slots=True)
class OnlineCall:
    """`service_tier` is the one that serves it, None where the client did not ask of tiers."""

    request_id: str
    model: ModelInfo
    endpoint: str
    body: bytes
    stream: bool
    sub_requests: int
    service_tier: str | None

    @property
    def flex(self) -> bool:
        return self.service_tier == FLEX

    def request(self, attempt: int) -> EngineRequest:
        return EngineRequest(
            request_id=f"{self.request_id}-{attempt}",
            model=self.model.id,
            endpoint=self.endpoint,
            body=self.body,
            priority=BATCH_PRIORITY if self.flex else ONLINE_PRIORITY,
            sub_requests=self.sub_requests,
        )


async def read_call(request: Request, api: Api, endpoint: str) -> OnlineCall:
    body = await read_json_bytes(request, bytes_max=api.settings.json_body_bytes_max)
    fields = decode_json(body, dict[str, msgspec.Raw])
    name = _field(fields, "model", str)
    if name is None:
        raise missing("model")
    model = resolve_model(api.registry, name)
    if endpoint not in model.endpoints:
        raise ApiError(
            400,
            f"The model '{model.id}' does not serve {endpoint}. It serves: {', '.join(sorted(model.endpoints))}.",
            param="model",
            code="endpoint_not_supported",
        )
    stream = _field(fields, "stream", bool) if endpoint in GENERATE_ENDPOINTS else False
    if stream and endpoint not in STREAM_ENDPOINTS:
        raise invalid("stream", f"{endpoint} does not stream here yet; leave it out, or use {CHAT_COMPLETIONS}.")
    return OnlineCall(
        request_id=request.state.request_id,
        model=model,
        endpoint=endpoint,
        body=body,
        stream=bool(stream),
        sub_requests=_sub_requests(fields, endpoint),
        service_tier=tier_of(_field(fields, SERVICE_TIER, str)) if endpoint in GENERATE_ENDPOINTS else None,
    )


def _field(fields: Mapping[str, msgspec.Raw], name: str, kind: type[Any]) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(name, f"{str(error).partition(' - at ')[0]}.", code="invalid_type") from None


def _sub_requests(fields: Mapping[str, msgspec.Raw], endpoint: str) -> int:
    """How many sequences the body fans out to. The engine checks the body later: what is odd here counts as one."""
    count = 1
    listed = {COMPLETIONS: "prompt", EMBEDDINGS: "input"}.get(endpoint)
    if listed is not None:
        count = _length(fields.get(listed))
    if endpoint in GENERATE_ENDPOINTS:
        try:
            n = msgspec.json.decode(fields.get("n", b"1"), type=int | None) or 1
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            n = 1
        count *= max(1, n)
    return min(count, SUB_REQUESTS_MAX)


def _length(raw: msgspec.Raw | None) -> int:
    """The elements of an array of prompts; a text, or one prompt given as token ids, is one."""
    if raw is None:
        return 1
    try:
        elements = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 1
    if elements and bytes(elements[0])[:1] in b"-0123456789":
        return 1
    return max(1, len(elements))
