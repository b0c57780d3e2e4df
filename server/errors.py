"""OpenAI's error envelope, for everything that is not a 2xx."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from store.records import DiskFull, FileInUse, NotFound, NotPending, StoreError, TooLarge, TooManyParts

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
NO_RETRY: Mapping[str, str] = {"x-should-retry": "false"}
"""OpenAI's clients repeat 409 and 5xx unless told not to."""

SHOWN_CHARS_MAX = 100

log = logging.getLogger("nightbatch.errors")


class ApiError(Exception):
    """An answer that is an error: raised anywhere below a handler, sent as the envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID_REQUEST,  # noqa: A002 (the envelope's own word)
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def shown(value: object) -> str:
    """A client's value as it may stand in a message: quoted, escaped and short."""
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."
    return "'" + cut.encode("unicode_escape", "backslashreplace").decode("ascii") + "'"


def missing(param: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"Invalid '{param}': {message}", param=param, code=code)


def retry_after(seconds: float) -> dict[str, str]:
    """Whole seconds, at least one: HTTP knows no fractions here."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def envelope(error: ApiError) -> Response:
    body = {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    return Response(
        msgspec.json.encode(body), status_code=error.status, headers=error.headers, media_type="application/json"
    )


def internal(request_id: str) -> ApiError:
    """What a client sees of a defect: nothing of it but the way to the log."""
    return ApiError(
        500,
        f"The server had an error while processing your request ({request_id}). Its log has the cause.",
        type=SERVER_ERROR,
        code="internal_error",
    )


def of_store(error: StoreError) -> ApiError | None:
    """The store's refusals are a client's to know; None for what is the operator's (damage, a lost lease)."""
    match error:
        case DiskFull():
            log.error("refused for want of disk space: %s", error.for_log)
            return ApiError(507, str(error), type=SERVER_ERROR, code="disk_full", headers=NO_RETRY)
        case TooLarge():
            return ApiError(413, f"{error} ([store] upload_mib_max).", param="file", code="file_too_large")
        case FileInUse():
            return ApiError(409, str(error), code="file_in_use", headers=NO_RETRY)
        case NotPending():
            return ApiError(400, f"{error}: it takes no more changes. Create a new upload.", code="upload_not_pending")
        case TooManyParts():
            return ApiError(400, f"{error} (upload_parts_max).", code="too_many_parts")
        case NotFound():
            return ApiError(404, str(error), code="not_found")
        case _:
            return None


def of_validation(error: RequestValidationError) -> ApiError:
    """The first complaint about a path or query parameter (bodies are checked by hand, with better words)."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"] if part not in ("query", "path", "header")]
    param = ".".join(location) or None
    if first["type"] == "missing" and param:
        return missing(param)
    return ApiError(400, f"Invalid '{param}': {first['msg']}.", param=param, code="invalid_value")


def of_http(error: HTTPException, request: Request) -> ApiError:
    """What the router itself refuses."""
    route = f"{request.method} {request.url.path[:SHOWN_CHARS_MAX]}"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 404:
        return ApiError(
            404, f"Invalid URL ({route}). /openapi.json lists the routes.", code="unknown_url", headers=headers
        )
    if error.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        message = f"Not allowed: {route}. Use {allowed}."
        return ApiError(405, message, code="method_not_allowed", headers={**headers, "allow": allowed})
    kind = SERVER_ERROR if error.status_code >= 500 else INVALID_REQUEST
    return ApiError(error.status_code, str(error.detail), type=kind, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Of every route with this path; the router itself knows only of the first one."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL:
            methods |= route.methods or set()
    return sorted(methods)


def install(app: FastAPI) -> None:
    """Answer every exception that stands for a reply; the rest is `middleware.envelope`'s."""

    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return envelope(error)

    async def store_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        answer = of_store(error)
        if answer is None:
            raise error
        return envelope(answer)

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return envelope(of_validation(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return envelope(of_http(error, request))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(StoreError, store_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
