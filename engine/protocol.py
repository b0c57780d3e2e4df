"""What an engine is: a request body in, a response body out, whatever stands behind the seam.

Requests and results are bytes and plain values, so an engine may live in this process, in another, or behind a URL.
Nothing here knows of batches, files or shards, and importing this module imports no GPU stack.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
SCORE = "/v1/score"
RERANK = "/v1/rerank"

GENERATE_ENDPOINTS = frozenset({CHAT_COMPLETIONS, COMPLETIONS, RESPONSES})
STREAM_ENDPOINTS = frozenset({CHAT_COMPLETIONS, COMPLETIONS})
POOLING_ENDPOINTS = frozenset({EMBEDDINGS, SCORE, RERANK})

ONLINE_PRIORITY = 0
BATCH_PRIORITY = 10
"""vLLM orders lower values first. Online means <= 0, batch means >= 1; a client can never set it."""


class ModelKind(StrEnum):
    GENERATE = "generate"
    POOLING = "pooling"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A served model.

    `revision` is a fingerprint of the weights (commit hash, or a digest of a folder, or the preset of a simulation):
    two engines serve the same model only when id and revision agree, and a batch keeps the pair it was created with.
    `dimensions` is the length of its embeddings, where it makes any and that is known.
    """

    id: str
    revision: str
    kind: ModelKind
    endpoints: frozenset[str]
    context_tokens_max: int | None
    created_at: int
    owned_by: str = "nightbatch"
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request as an engine sees it.

    `request_id` is unique for the life of the engine (batch id and line number, never the client's custom_id).
    `body` is the client's JSON object as it wrote it: the engine replaces its `model` and strips what could hurt
    others.
    `sub_requests` is how many sequences it fans out to (`n`, array prompts, many inputs).
    """

    request_id: str
    model: str
    endpoint: str
    body: bytes
    priority: int = BATCH_PRIORITY
    sub_requests: int = 1


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineResult:
    """An answer, also when it is a refusal: `status_code` 2xx is a success, 4xx is *rejected* (never retried).

    `body` is the endpoint's response in OpenAI's shape, or `{"error": {message, type, param, code}}`; it holds no
    newline.
    """

    status_code: int
    body: bytes
    usage: Usage = field(default_factory=Usage)

    @property
    def ok(self) -> bool:
        return 200 <= self.status_code < 300


class EngineError(Exception):
    """The request was not answered; nothing is known about the request itself.

    EngineError
      EngineUnavailable   run it elsewhere, or here after a restart
      EngineOverloaded    run it later
      EngineStartError    the engine could not start; the message is its root cause in one line
        EngineBlocked     ... because someone else holds the memory
    """


class EngineUnavailable(EngineError):
    """`died` says that the engine went down with this request in flight (what blame counts); False: it was not there,
    was stopping, or gave an aborted answer."""

    def __init__(self, reason: str, *, died: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.died = died


class EngineOverloaded(EngineError):
    def __init__(self, reason: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class EngineStartError(EngineError):
    pass


class EngineBlocked(EngineStartError):
    """Someone else holds what the engine needs, and is named: no fault of the engine, and worth trying again soon."""


class EngineState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DOWN = "down"
    """Crash loop: too many deaths in a short time. Still tried again, at the longest back-off."""
    AWAY = "away"
    """Sent away on purpose: its hours are over, or another model has its turn on the device."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """`incarnation` counts the starts that became ready: requests that died with the same incarnation died together.

    `since_at` is wall-clock seconds. `reason` is one line for people (root cause, or "down since 03:10, 4 starts,
    ..."). `ready_at` is when one that is away or starting should be ready, by the clock and by how long it took before;
    None while nobody can say.
    """

    state: EngineState
    since_at: float
    incarnation: int = 0
    starts: int = 0
    reason: str | None = None
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds that a caller keeps. Counted in sub-requests and in KV tokens (prompt plus the most it may generate).

    `slots` are the sequences that run at once, where the engine knows; what is in flight beyond them waits in it.
    """

    inflight_requests_max: int
    inflight_tokens_max: int | None = None
    body_bytes_max: int = 64 * 1024 * 1024
    slots: int | None = None


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """A glance, free to take. Zeros where an engine cannot tell.

    `elsewhere` are requests on the engine that did not come through it as an object here: other clients of an upstream.
    """

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0
    step_ms: float = 0.0
    elsewhere: int = 0


@dataclass(frozen=True, slots=True)
class EngineMeters:
    """Running totals of an engine's present life; a new life begins at zero.

    `busy_seconds` had a request running, `running_seconds` is that times how many ran. `pushed_out` counts requests
    that lost their memory to others and were computed again. The front is what stands between requests and the engine's
    steps (reading, templates, tokens, answers) where that is a process of its own: its CPU time, and its answers.
    """

    busy_seconds: float
    running_seconds: float
    pushed_out: int = 0
    front_cpu_seconds: float | None = None
    answers: int = 0


@runtime_checkable
class Engine(Protocol):
    """One engine serving one or more models. Every implementation passes tests/engine/conformance.

    `start` may be called again after a death or a stop. `generate` raises only EngineError subclasses (and
    asyncio.CancelledError); cancelling it frees the engine's slot within a step. `models`, `limits`, `status` and
    `load` never block and may be called at any time.
    """

    @property
    def name(self) -> str: ...

    def models(self) -> Sequence[ModelInfo]: ...

    def limits(self) -> EngineLimits: ...

    def status(self) -> EngineStatus: ...

    def load(self) -> EngineLoad: ...

    async def start(self) -> None: ...

    async def stop(self, drain_seconds: float = 0.0) -> None: ...

    async def generate(self, request: EngineRequest) -> EngineResult: ...

    def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        """Server-sent events for one online request, frame by frame (`b"data: {...}\\n\\n"`), ending with `[DONE]`.
        A refusal before the first token raises StreamRejected."""
        ...

    async def metrics(self) -> str:
        """The engine's own Prometheus exposition text, or an empty string."""
        ...


@runtime_checkable
class BoundsSteps(Protocol):
    """An engine that may put online requests first by itself, inside its steps."""

    @property
    def bounds_steps(self) -> bool:
        """It does so now: what is in flight for batches need not be bounded for the online requests that it has."""
        ...


@runtime_checkable
class Metered(Protocol):
    """An engine that knows how its time is spent."""

    def meters(self) -> EngineMeters | None:
        """Free to take; None while it cannot tell."""
        ...


@runtime_checkable
class Sleeper(Protocol):
    """An engine that can give its device's memory back without ending. `start` wakes it."""

    async def sleep(self, drain_seconds: float = 0.0) -> None:
        """Returns when the memory is free. Raises EngineError when it cannot sleep; it may have ended then."""
        ...


class StreamRejected(Exception):
    """The request of a stream was refused; `result` is the answer to send instead."""

    def __init__(self, result: EngineResult) -> None:
        super().__init__(f"rejected with status {result.status_code}")
        self.result = result
