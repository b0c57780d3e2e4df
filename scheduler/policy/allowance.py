"""What one engine may be given while online requests are about. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.policy.duty import Call, DutySettings, call_requests
from scheduler.policy.pressure import Phase, Pressure, PressureSettings


@dataclass(frozen=True, slots=True)
class Allowance:
    """Beside the engine's budget: sub-requests in flight, prompts being read at once, and calls with rests between
    them. What is in flight far above `recall_to` is taken back, and, with `recalls_reading`, what is still having its
    prompt read. None: no such bound."""

    requests_max: int | None = None
    prefills_max: int | None = None
    call: Call | None = None
    recall_to: int | None = None
    recalls_reading: bool = False


FREE = Allowance()


def for_decoding(pressure: Pressure, settings: PressureSettings) -> Allowance:
    """An engine with decode steps: what is in flight takes part in each of them."""
    if pressure.cap is None:
        return FREE
    if pressure.phase not in (Phase.BESIDE, Phase.NEIGHBOUR):
        return Allowance(pressure.cap)
    return Allowance(
        pressure.cap,
        settings.prefills_max,
        recall_to=pressure.cap,
        recalls_reading=pressure.is_onset,
    )


def for_pooling(phase: Phase, ms_each: float | None, settings: DutySettings) -> Allowance:
    """An engine without decode steps: each call is short, so that nothing need linger when online requests are gone."""
    requests = call_requests(ms_each, step_ms_target=settings.step_ms_target)
    if phase is Phase.ALONE:
        return FREE
    if phase in (Phase.BESIDE, Phase.NEIGHBOUR):
        return Allowance(call=Call(requests, settings.share_max), recall_to=requests)
    return Allowance(requests * settings.idle_calls_max)
