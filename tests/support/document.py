"""Our OpenAPI document without a server: which routes and shapes there are, for tests that go over all of them."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from engine.registry import Registry
from server.app import create_app
from server.settings import ServerSettings
from server.tenants import Tenants

METHODS = ("get", "post", "put", "patch", "delete")


@cache
def document() -> dict[str, Any]:
    app = create_app(
        store=cast("Any", None),  # the document depends on routes and settings alone
        registry=Registry([]),
        wake=lambda: None,
        tenants=Tenants(),
        settings=ServerSettings(),
    )
    return app.openapi()


def operations() -> list[tuple[str, str]]:
    """Every (METHOD, path) of the document."""
    paths = document()["paths"].items()
    return [(method.upper(), path) for path, item in paths for method in METHODS if method in item]
