"""Online first on the simulated device: the pure policy that also runs inside vLLM, over the device's sequences.

What vLLM's mixin does around one call of its scheduler, `OnlineFirst.bounds` says for one step: who of the batch sits
it out with its KV cache kept, how many tokens the step has, and how many of the batch may enter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.simulated.sequence import SequenceState
from engine.vllm.online_first.policy import Mode, Orders, Resident, Share, rotated, share, share_idle
from engine.vllm.online_first.step_model import StepModel, StepShape

ROTATE_STEPS = 64
PRESENCE_SECONDS = 600.0
PROMPT_TOKENS_ASSUMED = 64.0
PROMPT_WEIGHT = 0.1
"""As inside vLLM: how often those who take part change, how long after an online request the next one is expected, and
how long its prompt will be (a running mean)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one step may do. `parked` sit it out; `admit_max` bounds the batch's admissions, None: as many as fit.
    `is_single`: the next step may have other bounds."""

    step_tokens_max: int
    parked: frozenset[SequenceState] = frozenset()
    admit_max: int | None = None
    is_single: bool = False


class OnlineFirst:
    """One engine's orders, step model and memory of who took part. `clock` in seconds, of the device's own time."""

    def __init__(self, *, online_slots: int = 0, orders: Orders | None = None, clock: Callable[[], float]) -> None:
        self.orders = orders or Orders()
        self.model = StepModel()
        self.steps_beside = 0
        self._online_slots = online_slots
        self._clock = clock
        self._online_at: float | None = None
        self._prompt_tokens = PROMPT_TOKENS_ASSUMED
        self._turns = 0
        self._beside: list[str] = []

    @property
    def is_off(self) -> bool:
        return self.orders.mode is Mode.PRIORITY and not self.orders.is_paused

    def note_arrival(self, prompt_tokens: int) -> None:
        """An online sequence came: others like it are expected for a while."""
        self._online_at = self._clock()
        self._prompt_tokens += PROMPT_WEIGHT * (prompt_tokens - self._prompt_tokens)

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
        online = [one for one in running if one.is_online]
        is_beside = bool(online or online_waiting)
        if not is_beside and not self.orders.is_paused and not self._expects_online():
            return Bounds(step_tokens_max)
        batch = {one.name: one for one in running if not one.is_online}
        found = self._share(online, batch, online_waiting, step_tokens_max)
        self._beside = list(found.take_part)
        taken = set(found.take_part)
        parked = frozenset(one for name, one in batch.items() if name not in taken)
        room = max(0, max(1, slots - self._online_slots) - len(batch))
        return Bounds(found.step_tokens_max, parked, min(room, found.admit_max), is_single=is_beside or bool(parked))

    def learn(self, shape: StepShape, step_seconds: float) -> None:
        self.model.add(shape, step_seconds * 1_000)

    def _expects_online(self) -> bool:
        return self._online_at is not None and self._clock() - self._online_at <= PRESENCE_SECONDS

    def _share(
        self,
        online: Sequence[SequenceState],
        batch: Mapping[str, SequenceState],
        online_waiting: Sequence[SequenceState],
        step_tokens_max: int,
    ) -> Share:
        self._turns += 1
        order = [
            _view(batch[name]) for name in rotated(list(batch), self._beside, is_due=self._turns % ROTATE_STEPS == 0)
        ]
        if not online and not online_waiting and not self.orders.is_paused:
            return share_idle(
                order,
                online_prompt_tokens=self._prompt_tokens,
                step_tokens_max=step_tokens_max,
                orders=self.orders,
                model=self.model,
            )
        self.steps_beside += 1
        return share(
            [*map(_view, online), *order],
            online_waiting_tokens=sum(one.prompt_tokens + one.generated for one in online_waiting),
            step_tokens_max=step_tokens_max,
            orders=self.orders,
            model=self.model,
        )


def _view(sequence: SequenceState) -> Resident:
    left = max(0, sequence.prefill_target - sequence.prefilled)
    return Resident(sequence.name, sequence.is_online, left, sequence.context_tokens)
