"""The application: every route, put together in one visible function."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

from fastapi import FastAPI

from engine.registry import Registry
from server import errors, exposition, health, openapi
from server.context import Api
from server.ids import TokenSource
from server.middleware.envelope import RequestEnvelope
from server.middleware.silence import BodySilence
from server.openai import (
    batch_control,
    batch_errors,
    batch_results,
    batches,
    engines,
    files,
    merged,
    models,
    online,
    retries,
    schedule,
    uploads,
)
from server.openai.flex import Flex
from server.settings import ServerSettings
from server.tenants import Tenants
from store.store import Store

OPENAI_ROUTERS = (
    files.router,
    uploads.router,
    batches.router,
    batch_control.router,
    batch_errors.router,
    batch_results.router,
    schedule.router,
    retries.router,
    merged.router,
    models.router,
    engines.router,
    online.router,
)


def create_app(
    *,
    store: Store,
    registry: Registry,
    wake: Callable[[], None],
    tenants: Tenants,
    settings: ServerSettings,
    now: Callable[[], float] = time.time,
    ready: Callable[[], Sequence[str]] = tuple,
    token: TokenSource = secrets.token_bytes,
) -> FastAPI:
    """`wake` is called after every change that whoever runs batches should see. `ready` returns reasons why this
    process should get no traffic (empty: none); store and engines are asked here. Opening and closing them is the
    caller's.
    """
    app = FastAPI(title="Nightbatch", version=version("nightbatch"), docs_url=None, redoc_url=None)
    app.state.api = Api(
        store=store,
        registry=registry,
        wake=wake,
        tenants=tenants,
        settings=settings,
        now=now,
        not_ready=ready,
        token=token,
        flex=Flex(registry, settings),
    )
    app.include_router(health.router)
    app.include_router(exposition.router)
    for router in OPENAI_ROUTERS:
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    errors.install(app)
    openapi.install(app, settings)
    app.add_middleware(BodySilence, seconds_max=settings.body_silence_seconds_max)
    app.add_middleware(RequestEnvelope, token=token)
    return app
