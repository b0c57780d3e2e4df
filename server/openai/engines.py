"""`/engines`: how the engines are fed, and what stands before them. Beyond OpenAI's API."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from engine.feeding import Feed
from engine.protocol import Engine
from server.auth import TenantDep
from server.context import ApiDep
from server.openai.shapes import error_docs, reply

router = APIRouter(tags=["Models"])


class FrontObject(BaseModel):
    """What requests cost before they reach a device, in the last minute; null while too few have."""

    core_share: float | None
    ms_per_request: float | None
    requests_per_s: float | None
    warning: str | None

    @classmethod
    def of(cls, feed: Feed) -> FrontObject:
        return cls(
            core_share=_rounded(feed.front_share),
            ms_per_request=_rounded(feed.front_ms),
            requests_per_s=_rounded(feed.requests_per_s),
            warning=feed.warning,
        )


class EngineObject(BaseModel):
    name: str
    object: Literal["engine"] = "engine"
    state: str
    models: list[str]
    slots: int | None
    busy_share: float | None
    running_mean: float | None
    front: FrontObject

    @classmethod
    def of(cls, engine: Engine, feed: Feed) -> EngineObject:
        return cls(
            name=engine.name,
            state=engine.status().state.value,
            models=[model.id for model in engine.models()],
            slots=feed.slots,
            busy_share=_rounded(feed.busy_share),
            running_mean=_rounded(feed.running),
            front=FrontObject.of(feed),
        )


class EngineList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EngineObject]
    server: FrontObject


@router.get("/engines", response_model=EngineList, responses=error_docs())
async def list_engines(api: ApiDep, tenant: TenantDep) -> Response:
    """Which part of its time each engine had something to run while lines waited, and the CPU time of its front."""
    *feeds, loop = api.registry.feeds()
    engines = [EngineObject.of(engine, feed) for engine, feed in zip(api.registry.engines(), feeds, strict=True)]
    return reply(EngineList(data=engines, server=FrontObject.of(loop)))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
