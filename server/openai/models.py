"""`/models`: what is served, under ids that may hold slashes."""

from __future__ import annotations

from fastapi import APIRouter, Response

from engine.protocol import ModelInfo
from engine.registry import Registry
from server.auth import TenantDep
from server.context import ApiDep
from server.errors import ApiError
from server.openai.shapes import ModelList, ModelObject, error_docs, reply

NAMES_SHOWN_MAX = 20
NAME_CHARS_MAX = 200

router = APIRouter(tags=["Models"])


@router.get("/models", response_model=ModelList, responses=error_docs())
async def list_models(api: ApiDep, tenant: TenantDep) -> Response:
    return reply(ModelList(data=[ModelObject.of(info) for info in api.registry.models()]))


@router.get("/models/{model:path}", response_model=ModelObject, responses=error_docs(404))
async def retrieve_model(model: str, api: ApiDep, tenant: TenantDep) -> Response:
    """A served model by its id; an alias gives the model that it stands for."""
    return reply(ModelObject.of(resolve_model(api.registry, model)))


def resolve_model(registry: Registry, name: str) -> ModelInfo:
    """The served model called `name`, or a 404 that says what is served and which line would make the name work."""
    info = registry.resolve(name)
    if info is not None:
        return info
    served = [model.id for model in registry.models()]
    asked = name[:NAME_CHARS_MAX].encode("unicode_escape").decode("ascii")
    message = f"The model '{asked}' does not exist."
    if served:
        more = ", ..." if len(served) > NAMES_SHOWN_MAX else ""
        message += (
            f" Served: {', '.join(served[:NAMES_SHOWN_MAX])}{more}. To serve this name, add to nightbatch.toml under "
            f'[aliases]: "{asked}" = "{served[0]}"'
        )
    else:
        message += " No model is served yet: /readyz says why."
    raise ApiError(404, message, param="model", code="model_not_found")
