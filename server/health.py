"""`/healthz`: this process answers. `/readyz`: it can also keep what it is given and have it answered."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from fastapi import APIRouter, Response
from pydantic import BaseModel

from engine.protocol import EngineState
from server.context import Api, ApiDep

router = APIRouter(tags=["Operations"])


class Alive(BaseModel):
    status: str = "ok"


class EngineReport(BaseModel):
    name: str
    state: EngineState
    models: list[str]
    since_at: float
    incarnation: int
    reason: str | None


class Readiness(BaseModel):
    status: str
    reasons: list[str]
    engines: list[EngineReport]


@router.get("/healthz")
async def healthz() -> Alive:
    """The process is alive. Says nothing of engines: restarting the server does not mend them."""
    return Alive()


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(api: ApiDep) -> Response:
    """503 with reasons while the store cannot be written or a model has no engine that is ready. A model that is away
    by the clock or by turn is as it should be."""
    reasons = [*api.not_ready(), *await asyncio.to_thread(_store_reasons, api.store.folder), *_model_reasons(api)]
    report = Readiness(status="not ready" if reasons else "ready", reasons=reasons, engines=_engines(api))
    return Response(report.model_dump_json(), status_code=503 if reasons else 200, media_type="application/json")


def _store_reasons(folder: Path) -> list[str]:
    """Write, sync and remove one small file where uploads begin."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="readyz-", dir=folder / "tmp")
        try:
            os.write(descriptor, b"readyz")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            Path(name).unlink()
    except OSError as error:
        return [f"the data folder cannot be written: {error.strerror or error}"]
    return []


def _model_reasons(api: Api) -> list[str]:
    models = api.registry.models()
    if not models:
        causes = [status.reason for status in (engine.status() for engine in api.registry.engines()) if status.reason]
        return ["no model is served" + (f": {'; '.join(causes)}" if causes else "")]
    expected = [model for model in models if api.registry.absence(model.id, model.revision) is None]
    outages = ((model.id, api.registry.outage(model.id, model.revision)) for model in expected)
    return [f"model {name}: {outage}" for name, outage in outages if outage is not None]


def _engines(api: Api) -> list[EngineReport]:
    reports = []
    for engine in api.registry.engines():
        status = engine.status()
        reports.append(
            EngineReport(
                name=engine.name,
                state=status.state,
                models=[model.id for model in engine.models()],
                since_at=status.since_at,
                incarnation=status.incarnation,
                reason=status.reason,
            )
        )
    return reports
