"""Online first on the simulated device: the pure policy that also runs inside vLLM, over the device's sequences.

What vLLM's mixin does around one call of its scheduler, `OnlineFirst.bounds` says for one step: who of the batch sits
it out with its KV cache kept, how many tokens the step has, and how many of the batch may enter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.simulated.sequence import SequenceState
from engine.vllm.online_first.policy import Mode, Orders, Resident, idle_step_tokens, rotated, share
from engine.vllm.online_first.step_model import StepModel, StepShape

ROTATE_STEPS = 64
PRESENCE_SECONDS = 600.0
"""Both as inside vLLM: how often those beside an online request change, and how long the next one is expected."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one step may do. `parked` sit it out; `admit_max` bounds the batch's admissions, None: as many as fit.
    `is_beside`: an online request is present, so the next step may have other bounds."""

    step_tokens_max: int
    parked: frozenset[SequenceState] = frozenset()
    admit_max: int | None = None
    is_beside: bool = False


class OnlineFirst:
    """One engine's orders, step model and memory of who took part. `clock` in seconds, of the device's own time."""

    def __init__(self, *, online_slots: int = 0, orders: Orders | None = None, clock: Callable[[], float]) -> None:
        self.orders = orders or Orders()
        self.model = StepModel()
        self.steps_beside = 0
        self._online_slots = online_slots
        self._clock = clock
        self._online_at: float | None = None
        self._beside: list[str] = []

    @property
    def is_off(self) -> bool:
        return self.orders.mode is Mode.PRIORITY and not self.orders.is_paused

    def note_arrival(self) -> None:
        """An online sequence came: others are expected for a while."""
        self._online_at = self._clock()

    def bounds(
        self,
        running: Sequence[SequenceState],
        online_waiting: Sequence[SequenceState],
        *,
        step_tokens_max: int,
        slots: int,
    ) -> Bounds:
        if self.is_off:
            return Bounds(step_tokens_max)
        batch = [one for one in running if not one.is_online]
        batch_room = max(0, max(1, slots - self._online_slots) - len(batch))
        if len(batch) == len(running) and not online_waiting and not self.orders.is_paused:
            return self._alone(running, step_tokens_max, batch_room)
        return self._beside_online(running, batch, online_waiting, step_tokens_max, batch_room)

    def learn(self, shape: StepShape, step_seconds: float) -> None:
        self.model.add(shape, step_seconds * 1_000)

    def _alone(self, running: Sequence[SequenceState], step_tokens_max: int, batch_room: int) -> Bounds:
        """A step of the batch alone: bounded while an online request may come any moment."""
        if self._online_at is None or self._clock() - self._online_at > PRESENCE_SECONDS:
            return Bounds(step_tokens_max)
        tokens = idle_step_tokens(
            [_view(one) for one in running], step_tokens_max=step_tokens_max, orders=self.orders, model=self.model
        )
        return Bounds(tokens, admit_max=batch_room)

    def _beside_online(
        self,
        running: Sequence[SequenceState],
        batch: Sequence[SequenceState],
        online_waiting: Sequence[SequenceState],
        step_tokens_max: int,
        batch_room: int,
    ) -> Bounds:
        self.steps_beside += 1
        named = {str(one.arrival): one for one in batch}
        order = rotated(list(named), self._beside, is_due=self.steps_beside % ROTATE_STEPS == 0)
        found = share(
            [_view(one) for one in running if one.is_online] + [_view(named[name]) for name in order],
            online_waiting_tokens=sum(one.prompt_tokens + one.generated for one in online_waiting),
            step_tokens_max=step_tokens_max,
            orders=self.orders,
            model=self.model,
        )
        self._beside = list(found.take_part)
        taken = set(found.take_part)
        parked = frozenset(one for name, one in named.items() if name not in taken)
        return Bounds(found.step_tokens_max, parked, min(batch_room, found.admit_max), is_beside=True)


def _view(sequence: SequenceState) -> Resident:
    left = max(0, sequence.prefill_target - sequence.prefilled)
    return Resident(str(sequence.arrival), sequence.is_online, left, sequence.context_tokens)
