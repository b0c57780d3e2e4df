"""What every handler needs, in one value. `create_app` puts it on the application; nothing here is global."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from engine.registry import Registry
from server.ids import TokenSource
from server.openai.flex import Flex
from server.settings import ServerSettings
from server.tenants import Tenants
from store.store import Store


@dataclass(frozen=True, slots=True)
class Api:
    """`wake` tells whoever runs batches that there is something to do. `not_ready` lists the reasons, beyond store and
    engines, why this process should get no traffic (empty: none). `token` is the source of randomness of ids."""

    store: Store
    registry: Registry
    wake: Callable[[], None]
    tenants: Tenants
    settings: ServerSettings
    now: Callable[[], float]
    not_ready: Callable[[], Sequence[str]]
    token: TokenSource
    flex: Flex


def api_of(request: Request) -> Api:
    api = request.app.state.api
    assert isinstance(api, Api)
    return api


ApiDep = Annotated[Api, Depends(api_of)]
