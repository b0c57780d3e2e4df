"""The simulated engine: answers that are known beforehand, ready when virtual continuous batching says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

from engine.answers import shape_answer
from engine.protocol import (
    EngineLimits,
    EngineLoad,
    EngineMeters,
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
from engine.simulated import instant, replies
from engine.simulated.faults import Dice, Fate, SimulatedFaults
from engine.simulated.player import Flight, Player
from engine.simulated.profiles import SimulatedProfile, default_models
from engine.simulated.requests import Rejected
from engine.simulated.sequence import SequenceState
from engine.simulated.text import block_hashes
from engine.simulated.work import Work, plan_work
from engine.status import InFlight, StatusBoard
from engine.vllm.online_first.policy import Mode, Orders


class SimulatedEngine:
    """One virtual device serving `models` (default: a chat and an embedding model named after the profile).

    `time_scale` stretches virtual seconds into real ones: 1 is real time, 0 (the default) as fast as the loop can.
    `report_cached_tokens` shows prefix hits in the usage; off, an answer depends on nothing but its request.
    With `orders` it puts online requests first inside its steps, and keeps `online_slots` free for them.
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
        orders: Orders | None = None,
        online_slots: int = 0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.profile = profile
        self._name = name
        self._models = tuple(models if models is not None else default_models(profile))
        self._dice = Dice(faults, seed)
        self._time_scale = 0.0 if profile.instant else time_scale
        self._is_instant = profile.instant and faults == SimulatedFaults()
        self._limits = EngineLimits(
            inflight_requests_max=min(2 * profile.running_max, profile.waiting_max),
            inflight_tokens_max=profile.blocks * profile.block_tokens,
            slots=profile.running_max,
        )
        self._report_cached_tokens = report_cached_tokens
        self._orders = orders
        self._online_slots = online_slots
        self._board = StatusBoard(now)
        self._inflight = InFlight()
        self._player = self._new_player()
        self._playing: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def virtual_seconds(self) -> float:
        """What this life's steps would have taken on the simulated device."""
        return self._player.virtual_seconds

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def limits(self) -> EngineLimits:
        return self._limits

    def status(self) -> EngineStatus:
        return self._board.current

    def load(self) -> EngineLoad:
        device = self._player.device
        kv_use = device.cache.held / device.cache.blocks
        return EngineLoad(len(device.running), device.waiting, kv_use, self._player.step_seconds * 1_000)

    def meters(self) -> EngineMeters | None:
        """None where no time passes."""
        player = self._player
        if self._time_scale <= 0:
            return None
        return EngineMeters(player.busy_seconds, player.running_seconds, player.device.preemptions)

    def give_orders(self, orders: Orders) -> None:
        """Change what online first goes by, from the next step on and over restarts. Without it, nothing happens."""
        if self._orders is not None:
            self._orders = orders
            self._player.order(orders)

    @property
    def bounds_steps(self) -> bool:
        return self._orders is not None and self._orders.mode is Mode.ONLINE_FIRST

    def on_change(self, callback: Callable[[], None]) -> None:
        self._board.on_change(callback)

    async def start(self) -> None:
        if self._board.shows(EngineState.STARTING, EngineState.READY):
            return
        self._board.change(EngineState.STARTING)
        faults = self._dice.faults
        fails = self._dice.start_fails()
        try:
            await asyncio.sleep(faults.start_seconds)
        except asyncio.CancelledError:
            self._board.change(EngineState.STOPPED)
            raise
        if not self._board.shows(EngineState.STARTING):
            raise EngineStartError("stopped while starting")
        if fails:
            self._board.change(EngineState.STOPPED, reason=faults.start_cause)
            raise EngineStartError(faults.start_cause)
        self._draining = False
        self._player = self._new_player()
        self._playing = asyncio.create_task(self._player.run(), name=f"simulated engine {self._name}")
        self._playing.add_done_callback(self._playing_ended)
        self._board.change(EngineState.READY)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        self._draining = True
        await self._inflight.drain(drain_seconds)
        self._board.change(EngineState.STOPPED)
        self._player.end("the engine was stopped", died=False)
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.cancel()
            await asyncio.wait({playing})

    def kill(self, cause: str = "simulated: killed") -> None:
        """The engine process is gone, with everything in flight."""
        if self._board.state is EngineState.READY:
            self._player.end(cause, died=True)
            self._board.change(EngineState.STOPPED, reason=cause)
            if self._playing is not None:
                self._playing.cancel()

    async def generate(self, request: EngineRequest) -> EngineResult:
        self._check_open()
        model = self._model(request.model)
        if self._is_instant and model is not None and (answered := instant.answer(request, model)) is not None:
            return answered
        try:
            work = plan_work(request, model, self.profile)
        except Rejected as rejected:
            return rejected.result
        fate = self._fate(request, work)
        with self._admitted(request, work, fate) as flight:
            await flight.done
        if work.late_rejection is not None:
            return work.late_rejection.result
        cached = self._cached_tokens(work, flight)
        body = replies.reply(work, self.profile, cached_tokens=cached, aborted=fate is Fate.ABORT)
        return shape_answer(work.endpoint, body)

    async def stream(self, request: EngineRequest) -> AsyncIterator[bytes]:
        self._check_open()
        try:
            work = plan_work(request, self._model(request.model), self.profile)
        except Rejected as rejected:
            raise StreamRejected(rejected.result) from None
        if not work.outputs or work.late_rejection is not None:
            raise StreamRejected(await self.generate(request))
        fate = self._fate(request, work)
        with self._admitted(request, work, fate, steps=asyncio.Queue()) as flight:
            for frame in replies.first_frames(work):
                yield frame
            async for frame in _token_frames(work, flight):
                yield frame
        if work.stream_usage:
            yield replies.usage_frame(work, self._cached_tokens(work, flight))
        yield replies.DONE

    async def metrics(self) -> str:
        load, player = self.load(), self._player
        values = {
            "requests_running": load.running,
            "requests_waiting": load.waiting,
            "kv_cache_use": load.kv_use,
            "prefix_cache_queries_total": player.device.cache.queries,
            "prefix_cache_hits_total": player.device.cache.hits,
            "preemptions_total": player.device.preemptions,
            "virtual_seconds_total": player.virtual_seconds,
            "steps_total": player.steps,
        }
        return "".join(f'simulated_{name}{{engine="{self._name}"}} {value}\n' for name, value in values.items())

    def _new_player(self) -> Player:
        return Player(
            self.profile,
            self._time_scale,
            lambda: self.kill("simulated: the engine process died"),
            orders=self._orders,
            online_slots=self._online_slots,
        )

    def _playing_ended(self, playing: asyncio.Task[None]) -> None:
        """A fault of the simulation itself is a death like any other, not a silence."""
        if not playing.cancelled() and (error := playing.exception()) is not None:
            self.kill(f"the simulation failed: {error!r}")

    def _model(self, name: str) -> ModelInfo | None:
        return next((model for model in self._models if model.id == name), None)

    def _check_open(self) -> None:
        if self._board.state is not EngineState.READY:
            raise EngineUnavailable(f"engine {self._name} is {self._board.state}")
        if self._draining:
            raise EngineUnavailable(f"engine {self._name} is stopping")

    def _fate(self, request: EngineRequest, work: Work) -> Fate:
        fate = self._dice.fate(request.body)
        waiting = self._player.device.waiting
        if fate is Fate.OVERLOAD or waiting + len(replies.output_tokens(work)) > self.profile.waiting_max:
            raise EngineOverloaded(f"engine {self._name} has {waiting} sequences waiting")
        return fate

    @contextmanager
    def _admitted(
        self, request: EngineRequest, work: Work, fate: Fate, *, steps: asyncio.Queue[None] | None = None
    ) -> Iterator[Flight]:
        """The request's time on the device; leaving early frees its slots at once."""
        outputs = replies.output_tokens(work)
        hashes = [block_hashes(prompt.content, self.profile.block_tokens) for prompt in work.prompts]
        each = len(outputs) // len(hashes)
        sequences = [
            SequenceState(
                work.prompts[at // each].tokens, hashes[at // each], tokens, request.priority, steps is not None
            )
            for at, tokens in enumerate(outputs)
        ]
        flight = Flight(sequences, fate is Fate.DIE, steps)
        player = self._player
        with self._inflight.counted(len(sequences)):
            player.add(flight)
            try:
                yield flight
            finally:
                player.remove(flight)

    def _cached_tokens(self, work: Work, flight: Flight) -> int:
        if not self._report_cached_tokens:
            return 0
        return sum(sequence.cached_tokens for sequence in flight.sequences[:: max(work.choices_per_prompt, 1)])


async def _token_frames(work: Work, flight: Flight) -> AsyncIterator[bytes]:
    assert flight.steps is not None
    sent = [0] * len(flight.sequences)
    waiting = set(range(len(flight.sequences)))
    while waiting:
        await flight.steps.get()
        if flight.done.done():
            flight.done.result()
        for number in sorted(waiting):
            generated = flight.sequences[number].generated
            if generated > sent[number]:
                yield replies.token_frame(work, number, sent[number], generated)
                sent[number] = generated
            if flight.sequences[number].finished:
                waiting.discard(number)
