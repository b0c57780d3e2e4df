"""The OpenAPI document: what FastAPI finds, corrected where it is not what this server does."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from server.settings import ServerSettings

DESCRIPTION = (
    "A batch inference server with OpenAI's Files and Batches API. Every route below `/v1` exists without the prefix "
    "too. Every answer carries `x-request-id`; every error is OpenAI's envelope."
)


def install(app: FastAPI, settings: ServerSettings) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, summary=None
            )
            app.openapi_schema = _corrected(schema, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _corrected(schema: dict[str, Any], settings: ServerSettings) -> dict[str, Any]:
    limits = {
        "/v1/files": settings.files_list_limit_max,
        "/v1/batches": settings.batches_list_limit_max,
        "/v1/batches/{batch_id}/errors": settings.errors_list_limit_max,
        "/v1/batches/{batch_id}/results": settings.results_list_limit_max,
    }
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            # A bad parameter is OpenAI's 400 here, never FastAPI's 422.
            operation["responses"].pop("422", None)
            if operation.get("parameters"):
                operation["responses"].setdefault("400", _envelope_response())
        for parameter in operations.get("get", {}).get("parameters", []):
            if parameter["name"] == "limit" and path in limits:
                for variant in parameter["schema"].get("anyOf", [parameter["schema"]]):
                    if variant.get("type") == "integer":
                        variant["maximum"] = limits[path]
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
    _describe_windows(schema, settings)
    return schema


def _describe_windows(schema: dict[str, Any], settings: ServerSettings) -> None:
    body = schema["paths"]["/v1/batches"]["post"]["requestBody"]
    properties = body["content"]["application/json"]["schema"]["properties"]
    properties["completion_window"] = {"type": "string", "enum": list(settings.tiers)}


def _envelope_response() -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/ErrorEnvelope"}
    return {"description": "Bad Request", "content": {"application/json": {"schema": reference}}}
