"""What an upstream serves, read from `GET /v1/models` and, where that does not say enough, from its OpenAPI document.

Our own server adds `kind`, `endpoints` and `revision` to its models. vLLM does not say whether a model generates or
pools, but it registers only the routes that the model supports, and lists them in `/openapi.json`. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from engine.protocol import GENERATE_ENDPOINTS, POOLING_ENDPOINTS, ModelInfo, ModelKind


class UnreadableModels(ValueError):
    """The answer to `GET /v1/models` is not a model list; the message says what is wrong."""


class ListedModel(msgspec.Struct, kw_only=True):
    id: str
    created: float | None = None
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None
    kind: str | None = None
    endpoints: list[str] | None = None
    revision: str | None = None


class _ModelList(msgspec.Struct):
    data: list[ListedModel]


class _OpenApi(msgspec.Struct):
    paths: dict[str, msgspec.Raw]


def read_models(body: bytes) -> list[ListedModel]:
    try:
        return msgspec.json.decode(body, type=_ModelList).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableModels(f"/v1/models did not answer with a list of models: {error}") from None


def read_paths(openapi: bytes) -> frozenset[str]:
    """The routes of an OpenAPI document; empty when it is none."""
    try:
        return frozenset(msgspec.json.decode(openapi, type=_OpenApi).paths)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


def needs_paths(listed: Collection[ListedModel], kind: ModelKind | None) -> bool:
    return kind is None and any(model.kind is None and not model.endpoints for model in listed)


def learn_models(
    listed: Collection[ListedModel],
    *,
    paths: Collection[str] = (),
    kind: ModelKind | None = None,
    allowed: Collection[str] | None = None,
    revisions: Mapping[str, str] | None = None,
) -> tuple[ModelInfo, ...]:
    """The models that may be used. `kind` and `revisions` are the owner's word and win over what the upstream says."""
    return tuple(
        _learn(model, paths, kind, (revisions or {}).get(model.id))
        for model in listed
        if allowed is None or model.id in allowed
    )


def _learn(model: ListedModel, paths: Collection[str], kind: ModelKind | None, revision: str | None) -> ModelInfo:
    found = kind or _kind_of(model, paths)
    of_kind = GENERATE_ENDPOINTS if found is ModelKind.GENERATE else POOLING_ENDPOINTS
    known = of_kind.intersection(model.endpoints or paths)
    return ModelInfo(
        id=model.id,
        revision=revision or model.revision or unverified_revision(model),
        kind=found,
        endpoints=known or of_kind,
        context_tokens_max=model.max_model_len,
        created_at=int(model.created or 0),
        owned_by=model.owned_by or "upstream",
    )


def unverified_revision(model: ListedModel) -> str:
    """What an upstream tells of the weights: their name and nothing that proves them. Equal names are taken as equal
    weights, so that several upstreams can share a batch; `created` is no help (vLLM puts the time of asking there)."""
    return f"unverified:{model.root or model.id}"


def _kind_of(model: ListedModel, paths: Collection[str]) -> ModelKind:
    """Its own word, else its endpoints, else its server's routes; a server of both kinds counts as generating."""
    if model.kind in {kind.value for kind in ModelKind}:
        return ModelKind(model.kind)
    offered = frozenset(model.endpoints or paths)
    pools_only = bool(POOLING_ENDPOINTS & offered) and not GENERATE_ENDPOINTS & offered
    return ModelKind.POOLING if pools_only else ModelKind.GENERATE
