"""Who takes part in the next step while an online request is present, and how many tokens it has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from engine.vllm.online_first.step_model import StepModel, StepShape


class Mode(IntEnum):
    PRIORITY = 0
    """vLLM's own order: online requests are admitted first, nothing else."""

    ONLINE_FIRST = 1


@dataclass(frozen=True, slots=True)
class Orders:
    """What the server may change while the engine runs.

    The step of an online request may take `itl_ms_max`, or, where that is 0, `itl_factor_max` times what it would take
    alone. Between `beside_min` and `beside_max` batch requests decode beside it. `idle_step_ms_max` bounds a step
    without online requests: it is what one that arrives waits for. `beside_untrusted` and `step_tokens_untrusted` stand
    in until the step model has seen enough.
    """

    mode: Mode = Mode.ONLINE_FIRST
    is_paused: bool = False
    itl_ms_max: float = 0.0
    itl_factor_max: float = 1.5
    idle_step_ms_max: float = 200.0
    beside_min: int = 1
    beside_max: int = 1024
    beside_untrusted: int = 8
    step_tokens_untrusted: int = 256


@dataclass(frozen=True, slots=True)
class Resident:
    """A request that holds a slot and KV cache. `prefill_left` 0: it decodes, one token a step."""

    request_id: str
    is_online: bool
    prefill_left: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Share:
    """Who of the batch takes part (decoding first, then prefilling), how many tokens the step has in all, and how many
    batch requests may be admitted from the queue."""

    take_part: tuple[str, ...]
    step_tokens_max: int
    admit_max: int


def share(
    residents: Sequence[Resident],
    *,
    online_waiting_tokens: int,
    step_tokens_max: int,
    orders: Orders,
    model: StepModel,
) -> Share:
    """`residents` in the order in which they should take part; `step_tokens_max` is the engine's own bound.

    Decodes of the batch come first, up to the time that is left; what remains goes to its prefills, which also admit.
    While an online prompt is being read (its TTFT runs) the batch has only `beside_min` decodes.
    """
    online = [one for one in residents if one.is_online]
    batch = [] if orders.is_paused else [one for one in residents if not one.is_online]
    reading = online_waiting_tokens + sum(one.prefill_left for one in online)
    online_decodes = sum(one.prefill_left == 0 for one in online)
    decoding = [one for one in batch if one.prefill_left == 0]
    prefilling = [one for one in batch if one.prefill_left]
    beside, spare_tokens = _room(online, online_decodes, reading, decoding, orders, model)
    taken = decoding[:beside]
    online_tokens = online_decodes + reading
    spare_tokens = 0 if orders.is_paused else min(spare_tokens, max(0, step_tokens_max - online_tokens - len(taken)))
    readers = _readers(prefilling, spare_tokens)
    left = spare_tokens - sum(one.prefill_left for one in readers)
    return Share(
        tuple(one.request_id for one in (*taken, *readers)),
        max(1, min(step_tokens_max, online_tokens + len(taken) + spare_tokens)),
        1 if left > 0 and not reading and not orders.is_paused else 0,
    )


def _room(
    online: Sequence[Resident],
    online_decodes: int,
    reading: int,
    decoding: Sequence[Resident],
    orders: Orders,
    model: StepModel,
) -> tuple[int, int]:
    """How many batch decodes fit into the online step's time, and how many batch prompt tokens after them."""
    if reading:
        return orders.beside_min, 0
    if not model.is_trusted:
        beside = min(orders.beside_untrusted, orders.beside_max)
        return beside, max(0, orders.step_tokens_untrusted - online_decodes - beside)
    alone = StepShape(max(1, online_decodes), 0, sum(one.context_tokens for one in online))
    alone_ms = model.predict_ms(alone)
    limit_ms = orders.itl_ms_max or alone_ms * orders.itl_factor_max
    beside, context = 0, alone.context_tokens
    for one in decoding[: orders.beside_max]:
        context += one.context_tokens
        with_it = StepShape(alone.decodes + beside + 1, 0, context)
        if beside >= orders.beside_min and model.predict_ms(with_it) > limit_ms:
            context -= one.context_tokens
            break
        beside += 1
    spare_ms = limit_ms - model.predict_ms(StepShape(alone.decodes + beside, 0, context))
    tokens = int(spare_ms / model.prefill_token_ms) if spare_ms > 0 and model.prefill_token_ms else 0
    if not decoding:  # nothing of the batch decodes: its first prompt goes on in small pieces, or it would starve
        tokens = max(tokens, orders.beside_min)
    return beside, tokens


def _readers(prefilling: Sequence[Resident], tokens: int) -> list[Resident]:
    """Those whose prompts get the spare tokens, the last of them perhaps only in part."""
    readers = []
    for one in prefilling:
        if tokens <= 0:
            break
        readers.append(one)
        tokens -= one.prefill_left
    return readers


def idle_step_tokens(residents: Sequence[Resident], *, step_tokens_max: int, orders: Orders, model: StepModel) -> int:
    """Tokens of a step without online requests: so many that one which arrives meanwhile does not wait long."""
    decodes = sum(one.prefill_left == 0 for one in residents)
    if not model.is_trusted or not model.prefill_token_ms:
        return max(1, min(step_tokens_max, orders.step_tokens_untrusted + decodes))
    shape = StepShape(decodes, 0, sum(one.context_tokens for one in residents))
    spare_ms = orders.idle_step_ms_max - model.predict_ms(shape)
    return max(1, min(step_tokens_max, decodes + max(_PREFILL_TOKENS_MIN, int(spare_ms / model.prefill_token_ms))))


_PREFILL_TOKENS_MIN = 32
"""Also when decodes alone fill the time, prompts go on: no decode ends a queue that never shrinks."""


def rotated(candidates: Sequence[str], beside: Sequence[str], *, is_due: bool) -> list[str]:
    """The order in which batch requests are considered: those that took part last go on, so that the engine's batch
    changes little; when a rotation is due they go behind the others, of whom those after them have waited longest."""
    at = {one: place for place, one in enumerate(candidates)}
    were = [one for one in beside if one in at]
    others = [one for one in candidates if one not in set(were)]
    if not is_due or not were:
        return [*were, *others]
    last = at[were[-1]]
    return [*(one for one in others if at[one] > last), *(one for one in others if at[one] < last), *were]
