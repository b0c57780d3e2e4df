"""OpenAI's cursor lists: the query parameters they take."""

from __future__ import annotations

from typing import Annotated, TypedDict

from fastapi import Query

from server.errors import ApiError

After = Annotated[
    str | None, Query(description="Exclusive cursor: the id of the last object of the page before.", max_length=256)
]
Limit = Annotated[int | None, Query(ge=1, description="How many objects a page holds at most.")]


class Edges(TypedDict):
    first_id: str | None
    last_id: str | None


def page_limit(limit: int | None, *, default: int, maximum: int) -> int:
    if limit is None:
        return default
    if limit > maximum:
        raise ApiError(
            400,
            f"Invalid 'limit': integer above maximum value. Expected a value <= {maximum}, but got {limit} instead.",
            param="limit",
            code="integer_above_max_value",
        )
    return limit


def edges(ids: list[str]) -> Edges:
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
