"""What an upstream's status means for a request: an answer, a refusal, later, or elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from engine.answers import shape_answer, shape_error
from engine.protocol import EngineOverloaded, EngineResult, EngineUnavailable

RETRY_AFTER_SECONDS_MAX = 60.0
GATEWAY_STATUSES = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
KEY_STATUSES = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
TIMEOUT_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})

SUSPICIOUS_STATUSES = KEY_STATUSES | GATEWAY_STATUSES | {HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR}
"""After one of these the upstream is probed before the request is judged."""


def judge(name: str, endpoint: str, status_code: int, headers: Mapping[str, str], body: bytes) -> EngineResult:
    """The result of a request on a healthy upstream; raises what is not the request's own doing."""
    if HTTPStatus.OK <= status_code < HTTPStatus.MULTIPLE_CHOICES:
        return shape_answer(endpoint, body)
    if status_code == HTTPStatus.TOO_MANY_REQUESTS:
        raise EngineOverloaded(
            f"upstream {name} answered 429", retry_after_seconds=retry_after_seconds(headers.get("retry-after"))
        )
    if status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # vLLM's full queue; a sick upstream never comes here
        raise EngineOverloaded(
            f"upstream {name} answered 503", retry_after_seconds=retry_after_seconds(headers.get("retry-after"))
        )
    if status_code in GATEWAY_STATUSES | TIMEOUT_STATUSES or status_code < HTTPStatus.BAD_REQUEST:
        raise EngineUnavailable(f"upstream {name} answered {status_code}")
    return shape_error(status_code, body, endpoint)


def retry_after_seconds(header: str | None) -> float:
    """Seconds only; a date, which model servers do not send, counts as one second."""
    try:
        seconds = float(header or "")
    except ValueError:
        return 1.0
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)
