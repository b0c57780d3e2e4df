"""The HTTP side's own Prometheus series, on the process's default registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect

from server.errors import ApiError

METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})

http_requests = Counter(
    "nightbatch_http_requests", "HTTP requests by route, method and status.", ["route", "method", "status"]
)
http_seconds = Histogram(
    "nightbatch_http_request_seconds",
    "Seconds from the first byte of a request to the last of its answer.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
upload_bytes = Counter("nightbatch_upload_bytes", "Bytes of files that were uploaded and kept.")
online_requests = Counter(
    "nightbatch_online_requests",
    "Online requests by endpoint and outcome: answered, rejected, unavailable, overloaded, disconnected, failed.",
    ["endpoint", "outcome"],
)
online_inflight = Gauge("nightbatch_online_inflight", "Online requests that an engine is answering now.")
flex_requests = Counter(
    "nightbatch_flex_requests", "Requests of service_tier `flex`, by endpoint and outcome.", ["endpoint", "outcome"]
)
flex_inflight = Gauge("nightbatch_flex_inflight", "Requests of service_tier `flex` that are held open now.")
online_ttft_seconds = Histogram(
    "nightbatch_online_ttft_seconds",
    "Seconds from an online request's body to the first token of its stream.",
    ["endpoint"],
    buckets=(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
online_itl_seconds = Histogram(
    "nightbatch_online_itl_seconds",
    "Seconds between two tokens of an online request's stream.",
    ["endpoint"],
    buckets=(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.25, 0.5, 1, 2.5, 5),
)


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    known = method if method in METHODS else "OTHER"
    http_requests.labels(route, known, str(status)).inc()
    http_seconds.labels(route).observe(seconds)


class Outcome:
    """What an online request came to, unless an exception says otherwise."""

    def __init__(self) -> None:
        self.name = "answered"

    def rejected(self) -> None:
        self.name = "rejected"


@contextmanager
def online(endpoint: str, *, flex: bool = False) -> Iterator[Outcome]:
    """Count one online request while it is answered, and its outcome after; those of the flex tier apart."""
    outcome = Outcome()
    inflight, requests = (flex_inflight, flex_requests) if flex else (online_inflight, online_requests)
    inflight.inc()
    try:
        yield outcome
    except ApiError as error:
        outcome.name = "overloaded" if error.status == 429 else "unavailable"
        raise
    except (ClientDisconnect, asyncio.CancelledError):
        outcome.name = "disconnected"
        raise
    except Exception:
        outcome.name = "failed"
        raise
    finally:
        inflight.dec()
        requests.labels(endpoint, outcome.name).inc()
