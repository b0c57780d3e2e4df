"""Every limit of talking to an upstream, under its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """`request_seconds_max` bounds one request from sending to the last byte; generous, because a long answer on a full
    engine takes long. An upstream is dead after `probe_failures_max` silent probes or one refused connection.
    Its `/metrics` is read every `metrics_every_seconds`, half as often while nothing runs there; an upstream that does
    not tell its load is asked again after `metrics_again_seconds`.
    Idle connections close after `idle_connection_seconds`, before common servers (5 s) close them under our feet.
    """

    inflight_requests_max: int = 256
    connect_seconds_max: float = 5.0
    request_seconds_max: float = 3_600.0
    probe_seconds_max: float = 10.0
    probe_every_seconds: float = 5.0
    probe_failures_max: int = 3
    idle_connection_seconds: float = 2.0
    metrics_seconds_max: float = 2.0
    metrics_every_seconds: float = 0.5
    metrics_again_seconds: float = 60.0
    metrics_bytes_max: int = 16 * 1024 * 1024
    answer_bytes_max: int = 256 * 1024 * 1024
    frame_bytes_max: int = 16 * 1024 * 1024
    body_bytes_max: int = 64 * 1024 * 1024
