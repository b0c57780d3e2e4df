"""What the server and an engine's host say to each other: length-prefixed msgpack over a socket pair.

The pair has no name in the file system: nobody else can connect, nothing is left behind, and a side that dies is seen
at once as the end of the stream.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

FRAME_BYTES_MAX = 256 * 1024 * 1024
"""The largest frame taken from the other side (bodies and answers are below a quarter of it)."""


class Launch(msgspec.Struct, tag="launch", array_like=True):
    """The first frame: what to serve. `flags` are vLLM's own command line, complete but for model and name."""

    engine: str
    model_id: str
    source: str
    flags: list[str]


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """`model` is the served model or one of its adapters; `no` is unique for the life of the host."""

    no: int
    model: str
    endpoint: str
    body: bytes
    priority: int
    stream: bool = False


class Cancel(msgspec.Struct, tag="cancel", array_like=True):
    no: int


class Stop(msgspec.Struct, tag="stop", array_like=True):
    """Take nothing new, answer what is in flight for at most `drain_seconds`, then end."""

    drain_seconds: float


class Sleep(msgspec.Struct, tag="sleep", array_like=True):
    """Answer what is in flight for at most `drain_seconds`, then free the device's memory and stay. Answered with
    `Done` or `Unavailable`. Level 1 keeps the weights in main memory, level 2 drops them."""

    no: int
    drain_seconds: float
    level: int


class Wake(msgspec.Struct, tag="wake", array_like=True):
    """Take the memory again. Answered with `Done` or `Unavailable`."""

    no: int


class MetricsAsk(msgspec.Struct, tag="metrics?", array_like=True):
    no: int


class Processes(msgspec.Struct, tag="processes", array_like=True):
    """Pid and start time of the host and of everything below it."""

    processes: list[tuple[int, float, str]]


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """What the engine turned out to be."""

    vllm_version: str
    endpoints: list[str]
    context_tokens_max: int
    sequences_max: int
    kv_tokens: int | None
    kv_bytes: int | None
    device: str
    seconds: float


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """The engine could not start, or ended by itself. `reason` is one line; `exact` says that it is the root cause as
    the host saw it, and not just that a child died (whose own words are in the log)."""

    reason: str
    exact: bool


class Answer(msgspec.Struct, tag="answer", array_like=True):
    no: int
    status_code: int
    body: bytes
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class Event(msgspec.Struct, tag="event", array_like=True):
    """One server-sent event of a stream. The stream ends with an `Answer` of status 200 and no body."""

    no: int
    data: bytes


class Unavailable(msgspec.Struct, tag="unavailable", array_like=True):
    no: int
    reason: str
    overloaded: bool = False


class MetricsText(msgspec.Struct, tag="metrics", array_like=True):
    no: int
    text: str


class Done(msgspec.Struct, tag="done", array_like=True):
    no: int


class Pulse(msgspec.Struct, tag="pulse", array_like=True):
    """Sent about twice a second. `steps` counts finished engine steps; `step_ms` is their recent mean and
    `step_ms_max` a slowly forgetting maximum. What follows are totals, see engine.protocol.EngineMeters."""

    running: int
    waiting: int
    kv_use: float
    step_ms: float
    step_ms_max: float
    steps: int
    busy_seconds: float = 0.0
    running_seconds: float = 0.0
    pushed_out: int = 0
    front_cpu_seconds: float = 0.0
    answers: int = 0


ToHost: TypeAlias = Launch | Ask | Cancel | Stop | Sleep | Wake | MetricsAsk
FromHost: TypeAlias = Processes | Ready | Failed | Answer | Event | Unavailable | MetricsText | Done | Pulse

encode = msgspec.msgpack.Encoder().encode
decode_to_host = msgspec.msgpack.Decoder(ToHost).decode
decode_from_host = msgspec.msgpack.Decoder(FromHost).decode
