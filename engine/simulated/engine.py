"""The simulated engine: virtual continuous batching, played on the event loop at a chosen speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from engine.answers import shape_answer
from engine.protocol import (
    EngineLimits,
    EngineLoad,
    EngineOverloaded,
    EngineRequest,
    EngineResult,
    EngineStartError,
    EngineState,
    EngineStatus,
    EngineUnavailable,
    ModelInfo,
    StreamRejected,
)
from engine.simulated import replies
from engine.simulated.device import Device, Progress, SequenceState
from engine.simulated.faults import Dice, Fate, SimulatedFaults
from engine.simulated.profiles import SimulatedProfile, default_models
from engine.simulated.requests import Rejected
from engine.simulated.text import block_hashes
from engine.simulated.work import Work, plan_work

_EVENTS_PER_TURN = 64
"""How many steps an instant engine takes before it lets the event loop go on."""


@dataclass(slots=True, eq=False)
class _Running:
    """A request on the device. `open_sequences` are those not finished yet; `death` kills the engine when it runs."""

    work: Work
    sequences: list[SequenceState]
    open_sequences: int
    fate: Fate
    done: asyncio.Future[None]
    frames: asyncio.Queue[None] | None = None
    sent: list[int] = field(default_factory=list)


class SimulatedEngine:
    """One virtual device serving `models` (default: a chat and an embedding model named after the profile).

    `time_scale` stretches virtual seconds into real ones: 1 is real time, 0 (the default) as fast as the loop can.
    `report_cached_tokens` shows prefix hits in the usage; off, an answer depends on nothing but its request.
    """

    def __init__(
        self,
        name: str,
        profile: SimulatedProfile,
        *,
        models: Sequence[ModelInfo] | None = None,
        seed: int = 0,
        faults: SimulatedFaults = SimulatedFaults(),  # noqa: B008 (frozen)
        time_scale: float = 0.0,
        report_cached_tokens: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self.profile = profile
        self._models = tuple(models if models is not None else default_models(profile))
        self._dice = Dice(faults, seed)
        self._time_scale = time_scale
        self._report_cached_tokens = report_cached_tokens
        self._now = now
        self._status = EngineStatus(EngineState.STOPPED, now())
        self._callbacks: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._player: asyncio.Task[None] | None = None
        self._device = Device(profile)
        self._owners: dict[SequenceState, _Running] = {}
        self._doomed: set[_Running] = set()
        self._step_seconds = 0.0
        self._draining = False
        self.virtual_seconds = 0.0
        self.steps = 0

    @property
    def name(self) -> str:
        return self._name

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def limits(self) -> EngineLimits:
        return EngineLimits(
            inflight_requests_max=min(2 * self.profile.running_max, self.profile.waiting_max),
            inflight_tokens_max=self.profile.blocks * self.profile.block_tokens,
        )

    def status(self) -> EngineStatus:
        return self._status

    def load(self) -> EngineLoad:
        cache = self._device.cache
        return EngineLoad(
            running=len(self._device.running),
            waiting=self._device.waiting,
            kv_use=cache.held / cache.blocks,
            step_ms=self._step_seconds * 1_000,
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def start(self) -> None:
        if self._is(EngineState.STARTING, EngineState.READY):
            return
        self._change(EngineState.STARTING, starts=self._status.starts + 1)
        faults = self._dice.faults
        fails = self._dice.start_fails()
        await asyncio.sleep(faults.start_seconds)
        if not self._is(EngineState.STARTING):
            raise EngineStartError("stopped while starting")
        if fails:
            self._change(EngineState.STOPPED, reason=faults.start_cause)
            raise EngineStartError(faults.start_cause)
        self._device = Device(self.profile)
        self._draining = False
        self._player = asyncio.create_task(self._play(), name=f"simulated engine {self._name}")
        self._player.add_done_callback(self._player_ended)
        self._change(EngineState.READY, incarnation=self._status.incarnation + 1)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self._draining = True
        if drain_seconds > 0:
            with suppress(TimeoutError):  # what is left is told below
                async with asyncio.timeout(drain_seconds):
                    await self._idle.wait()
        self._end("the engine was stopped", died=False)
        self._change(EngineState.STOPPED)
        if self._player is not None:
            self._player.cancel()
            await asyncio.gather(self._player, return_exceptions=True)
            self._player = None

    def kill(self, cause: str = "simulated: killed") -> None:
        """The engine process is gone, with everything in flight."""
        if self._status.state is EngineState.READY:
            self._end(cause, died=True)
            self._change(EngineState.STOPPED, reason=cause)
            if self._player is not None:
                self._player.cancel()

    async def generate(self, request: EngineRequest) -> EngineResult:
        self._check_open()
        try:
            work = plan_work(request, self._model(request.model), self.profile)
        except Rejected as rejected:
            return rejected.result
        with self._admitted(request, work) as running:
            await running.done
        return self._answer(running)

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        self._check_open()
        try:
            work = plan_work(request, self._model(request.model), self.profile)
        except Rejected as rejected:
            raise StreamRejected(rejected.result) from None
        if not work.outputs or work.late_rejection is not None:
            raise StreamRejected(await self.generate(request))
        with self._admitted(request, work, streamed=True) as running:
            for frame in replies.first_frames(work):
                yield frame
            async for frame in self._token_frames(running):
                yield frame
        if work.stream_usage:
            yield replies.usage_frame(work, self._cached_tokens(running))
        yield replies.DONE

    async def metrics(self) -> str:
        load, cache = self.load(), self._device.cache
        values = {
            "requests_running": load.running,
            "requests_waiting": load.waiting,
            "kv_cache_use": load.kv_use,
            "prefix_cache_queries_total": cache.queries,
            "prefix_cache_hits_total": cache.hits,
            "preemptions_total": self._device.preemptions,
            "virtual_seconds_total": self.virtual_seconds,
            "steps_total": self.steps,
        }
        return "".join(f'simulated_{name}{{engine="{self._name}"}} {value}\n' for name, value in values.items())

    def _is(self, *states: EngineState) -> bool:
        return self._status.state in states

    def _model(self, name: str) -> ModelInfo | None:
        return next((model for model in self._models if model.id == name), None)

    def _check_open(self) -> None:
        if self._status.state is not EngineState.READY:
            raise EngineUnavailable(f"engine {self._name} is {self._status.state}")
        if self._draining:
            raise EngineUnavailable(f"engine {self._name} is stopping")

    def _change(self, state: EngineState, *, reason: str | None = None, **counts: int) -> None:
        counted = {"incarnation": self._status.incarnation, "starts": self._status.starts, **counts}
        self._status = EngineStatus(state, self._now(), reason=reason, **counted)
        for callback in self._callbacks:
            callback()

    @contextmanager
    def _admitted(self, request: EngineRequest, work: Work, *, streamed: bool = False) -> Iterator[_Running]:
        """The request's time on the device; leaving early frees its slots at once."""
        fate = self._dice.fate(request.body)
        outputs = replies.output_tokens(work)
        if fate is Fate.OVERLOAD or self._device.waiting + len(outputs) > self.profile.waiting_max:
            raise EngineOverloaded(f"engine {self._name} has {self._device.waiting} sequences waiting")
        hashes = [block_hashes(prompt.content, self.profile.block_tokens) for prompt in work.prompts]
        each = len(outputs) // len(hashes)
        sequences = [
            SequenceState(work.prompts[at // each].tokens, hashes[at // each], tokens, request.priority, streamed)
            for at, tokens in enumerate(outputs)
        ]
        running = _Running(work, sequences, len(sequences), fate, asyncio.get_running_loop().create_future())
        if streamed:
            running.frames, running.sent = asyncio.Queue(), [0] * len(sequences)
        device = self._device
        for sequence in sequences:
            device.add(sequence)
            self._owners[sequence] = running
        if fate is Fate.DIE:
            self._doomed.add(running)
        self._idle.clear()
        self._wake.set()
        try:
            yield running
        finally:
            for sequence in sequences:
                device.remove(sequence)
                self._owners.pop(sequence, None)
            if not running.done.cancel() and not running.done.cancelled():
                running.done.exception()  # seen, also by those who left before it was told
            else:
                self._wake.set()
            self._doomed.discard(running)
            if not self._owners:
                self._idle.set()

    def _answer(self, running: _Running) -> EngineResult:
        if running.work.late_rejection is not None:
            return running.work.late_rejection.result
        cached = self._cached_tokens(running)
        body = replies.reply(running.work, self.profile, cached_tokens=cached, aborted=running.fate is Fate.ABORT)
        return shape_answer(running.work.endpoint, body)

    def _cached_tokens(self, running: _Running) -> int:
        if not self._report_cached_tokens:
            return 0
        each = max(running.work.choices_per_prompt, 1)
        return sum(sequence.cached_tokens for sequence in running.sequences[::each])

    async def _token_frames(self, running: _Running) -> AsyncIterator[bytes]:
        assert running.frames is not None
        waiting = set(range(len(running.sequences)))
        while waiting:
            await running.frames.get()
            if running.done.done():
                running.done.result()
            for number in sorted(waiting):
                generated = running.sequences[number].generated
                if generated > running.sent[number]:
                    yield replies.token_frame(running.work, number, running.sent[number], generated)
                    running.sent[number] = generated
                if running.sequences[number].finished:
                    waiting.discard(number)

    def _end(self, cause: str, *, died: bool) -> None:
        for running in set(self._owners.values()):
            if not running.done.done():
                running.done.set_exception(EngineUnavailable(cause, died=died))
            if running.frames is not None:
                running.frames.put_nowait(None)

    def _settle(self, progress: Progress) -> None:
        """Tell the owners of sequences what the last steps brought."""
        for sequence in progress.finished:
            running = self._owners[sequence]
            running.open_sequences -= 1
            if running.open_sequences == 0 and running.fate is not Fate.DIE and not running.done.done():
                running.done.set_result(None)
        for sequence in progress.watched:
            frames = self._owners[sequence].frames
            assert frames is not None
            frames.put_nowait(None)
        for running in self._doomed:
            if any(sequence.finished or sequence in self._device.running for sequence in running.sequences):
                self.kill("simulated: the engine process died")
                return

    def _player_ended(self, player: asyncio.Task[None]) -> None:
        """A fault of the simulation itself is a death like any other, not a silence."""
        if not player.cancelled() and (error := player.exception()) is not None:
            self.kill(f"the simulation failed: {error!r}")

    async def _play(self) -> None:
        """Step after step for as long as there is work; the clock restarts when the engine was idle."""
        device, loop = self._device, asyncio.get_running_loop()
        due = loop.time()
        turns = 0
        while True:
            if device.idle:
                self._wake.clear()
                await self._wake.wait()
                due = loop.time()
                continue
            plan = device.plan()
            self._step_seconds = plan.step_seconds
            steps = plan.steps
            if self._time_scale > 0:
                steps = await self._pass_time(due, plan.step_seconds * self._time_scale, plan.steps)
                due += steps * plan.step_seconds * self._time_scale
            elif (turns := turns + 1) % _EVENTS_PER_TURN == 0 or device.waiting == 0:
                await asyncio.sleep(0)
            self.virtual_seconds += steps * plan.step_seconds
            self.steps += steps
            self._settle(device.apply(plan, steps))

    async def _pass_time(self, due: float, step_seconds: float, steps: int) -> int:
        """Sleep through up to `steps` steps; fewer when somebody comes or goes, but always whole ones."""
        loop = asyncio.get_running_loop()
        self._wake.clear()
        try:
            async with asyncio.timeout_at(due + steps * step_seconds):
                await self._wake.wait()
        except TimeoutError:
            return steps
        begun = min(max(int((loop.time() - due) / step_seconds) + 1, 1), steps)
        await asyncio.sleep(due + begun * step_seconds - loop.time())
        return begun
