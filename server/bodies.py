"""Request bodies: read within a bound, and JSON with errors that say where."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Request

from server.errors import ApiError, invalid

T = TypeVar("T")

JSON_SETTING = "[server] json_body_mib_max"
"""Where an operator raises the bound of JSON bodies."""

JSON_TYPES = ("application/json", "text/json")


def content_length(request: Request) -> int | None:
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else None


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, *, bytes_max: int, setting: str) -> bytes:
    """The whole body, never more than `bytes_max`; the refusal names the setting."""
    declared = content_length(request)
    too_large = ApiError(
        413,
        f"The request body is larger than the server's limit of {bytes_max} bytes ({setting}).",
        code="request_too_large",
    )
    if declared is not None and declared > bytes_max:
        raise too_large
    chunks: list[bytes] = []
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > bytes_max:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


async def read_json_bytes(request: Request, *, bytes_max: int) -> bytes:
    """The bytes of a JSON body. A body that says it is something else is refused before it is read."""
    kind = media_type(request)
    if kind and kind not in JSON_TYPES and not kind.endswith("+json"):
        raise ApiError(
            415,
            f"Unsupported content type {kind[:100]!r}: send the body as JSON with 'Content-Type: application/json'.",
            code="unsupported_content_type",
        )
    return await read_body(request, bytes_max=bytes_max, setting=JSON_SETTING)


def decode_json(body: bytes, into: type[T]) -> T:
    """`body` as `into`, or a 400 that says at which byte or field it is wrong."""
    if not body.strip():
        raise ApiError(400, "The request body is empty: a JSON object is expected.", code="invalid_json")
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        raise _wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        where = f" (the body has {len(body)} bytes)" if "truncated" in str(error) else ""
        raise ApiError(400, f"The request body is not valid JSON: {error}{where}.", code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise ApiError(
            400, f"The request body is not valid UTF-8: {error.reason} (byte {error.start}).", code="invalid_json"
        ) from None
    except RecursionError:
        raise ApiError(400, "The request body is nested too deeply.", code="invalid_json") from None


async def read_json_object(request: Request, *, bytes_max: int) -> dict[str, Any]:
    return decode_json(await read_json_bytes(request, bytes_max=bytes_max), dict[str, Any])


def _wrong_field(message: str) -> ApiError:
    """msgspec writes "Expected `str`, got `int` - at `$.model`"; a client reads it as a sentence about `model`."""
    complaint, _, path = message.partition(" - at ")
    field = path.strip("`").removeprefix("$").lstrip(".")
    if not field:
        return ApiError(400, f"The request body must be a JSON object: {complaint}.", code="invalid_type")
    return invalid(field, f"{complaint}.", code="invalid_type")
