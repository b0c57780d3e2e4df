"""Plays a virtual device on the event loop at a chosen speed, and tells each request how far it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.protocol import EngineUnavailable
from engine.simulated.device import Device, Progress
from engine.simulated.online_first import OnlineFirst
from engine.simulated.profiles import SimulatedProfile
from engine.simulated.sequence import SequenceState
from engine.vllm.online_first.policy import Orders

TURNS_MAX = 64
"""How many plans an instant device carries out before it lets the event loop go on."""


@dataclass(slots=True, eq=False)
class Flight:
    """One request on the device: its sequences, and who waits for it.

    A `doomed` flight never finishes: the device dies as soon as it runs. `steps` hears of every token of a stream.
    """

    sequences: list[SequenceState]
    doomed: bool = False
    steps: asyncio.Queue[None] | None = None
    done: asyncio.Future[None] = field(init=False)
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.unfinished = len(self.sequences)

    def fail(self, cause: str, *, died: bool) -> None:
        if not self.done.done():
            self.done.set_exception(EngineUnavailable(cause, died=died))
        if self.steps is not None:
            self.steps.put_nowait(None)


class Player:
    """One life of a device: `run` it as a task; `on_doom` is called when a doomed flight runs.

    With `time_scale` 0 a step takes no time. `virtual_seconds` and `steps` say what it would have taken. With `orders`
    the device puts online requests first; `online_slots` are kept free for them.
    """

    def __init__(
        self,
        profile: SimulatedProfile,
        time_scale: float,
        on_doom: Callable[[], None],
        *,
        orders: Orders | None = None,
        online_slots: int = 0,
    ) -> None:
        online_first = None
        if orders is not None:
            online_first = OnlineFirst(orders=orders, online_slots=online_slots, clock=self._device_seconds)
        self.device = Device(profile, online_first)
        self.step_seconds = 0.0
        self.virtual_seconds = 0.0
        self.busy_seconds = 0.0
        self.running_seconds = 0.0
        self.steps = 0
        self._time_scale = time_scale
        self._on_doom = on_doom
        self._owners: dict[SequenceState, Flight] = {}
        self._doomed: set[Flight] = set()
        self._wake = asyncio.Event()

    def add(self, flight: Flight) -> None:
        for sequence in flight.sequences:
            self.device.add(sequence)
            self._owners[sequence] = flight
        if flight.doomed:
            self._doomed.add(flight)
        self._wake.set()

    def remove(self, flight: Flight) -> None:
        """Free the slots of a flight, finished or not."""
        for sequence in flight.sequences:
            self.device.remove(sequence)
            self._owners.pop(sequence, None)
        self._doomed.discard(flight)
        if flight.done.done():
            _ = flight.done.cancelled() or flight.done.exception()  # seen, also when its owner left before
        else:
            flight.done.cancel()
            self._wake.set()

    def order(self, orders: Orders) -> None:
        """What holds from the next step on; nothing for a device without online first."""
        if self.device.online_first is not None:
            self.device.online_first.orders = orders
            self._wake.set()

    def end(self, cause: str, *, died: bool) -> None:
        for flight in set(self._owners.values()):
            flight.fail(cause, died=died)

    async def run(self) -> None:
        """Step after step for as long as there is work; the clock restarts when the device was idle."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        turns = 0
        while True:
            if self.device.idle:
                self._wake.clear()
                await self._wake.wait()
                due = loop.time()
                continue
            plan = self.device.plan()
            self.step_seconds = plan.step_seconds
            steps = plan.steps
            turns += 1
            if self._time_scale > 0:
                steps = await self._pass_time(due, plan.step_seconds * self._time_scale, plan.steps)
                due += steps * plan.step_seconds * self._time_scale
            elif turns % TURNS_MAX == 0 or self.device.waiting == 0:
                await asyncio.sleep(0)
            self.virtual_seconds += steps * plan.step_seconds
            self.busy_seconds += steps * plan.step_seconds * self._time_scale
            self.running_seconds += steps * plan.step_seconds * self._time_scale * len(self.device.running)
            self.steps += steps
            self._tell(self.device.apply(plan, steps))

    def _device_seconds(self) -> float:
        """The device's own time; one that plays as fast as it can has only its steps to go by."""
        if self._time_scale > 0:
            return asyncio.get_running_loop().time() / self._time_scale
        return self.virtual_seconds

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

    def _tell(self, progress: Progress) -> None:
        for sequence in progress.finished:
            flight = self._owners[sequence]
            flight.unfinished -= 1
            if flight.unfinished == 0 and not flight.doomed and not flight.done.done():
                flight.done.set_result(None)
        for sequence in progress.watched:
            steps = self._owners[sequence].steps
            assert steps is not None
            steps.put_nowait(None)
        running = set(self.device.running)
        if any(sequence.finished or sequence in running for flight in self._doomed for sequence in flight.sequences):
            self._on_doom()
