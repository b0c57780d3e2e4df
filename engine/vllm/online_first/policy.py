"""Who takes part in the next step while an online request is present, and how many tokens it has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from engine.slo import Slo
from engine.vllm.online_first.step_model import StepModel, StepShape


class Mode(IntEnum):
    PRIORITY = 0
    """vLLM's own order: online requests are admitted first, nothing else."""

    ONLINE_FIRST = 1


@dataclass(frozen=True, slots=True)
class Orders:
    """What the server may change while the engine runs.

    The step of an online request may take `itl_ms_max`, or, where that is 0, `itl_factor_max` times what it would take
    alone. Between `beside_min` and `beside_max` batch requests decode beside it. A step without online requests is what
    one that arrives waits for: with the reading of its prompt it may take `ttft_ms_max`, or, where that is 0,
    `ttft_factor_max` times the reading alone, but never has to be shorter than `idle_step_ms_min`. `beside_untrusted`
    and `step_tokens_untrusted` stand in until the step model has seen enough.
    """

    mode: Mode = Mode.ONLINE_FIRST
    is_paused: bool = False
    itl_ms_max: float = 0.0
    itl_factor_max: float = 1.5
    ttft_ms_max: float = 0.0
    ttft_factor_max: float = 2.0
    idle_step_ms_min: float = 25.0
    beside_min: int = 1
    beside_max: int = 1024
    beside_untrusted: int = 8
    step_tokens_untrusted: int = 256


def orders_for(slo: Slo) -> Orders:
    """What a service level asks of the steps: the bound of a step with an online request is its ITL, the bound of one
    without is what its TTFT leaves."""
    return Orders(
        itl_ms_max=slo.itl_ms_p99 or 0.0,
        itl_factor_max=slo.itl_factor,
        ttft_ms_max=slo.ttft_ms_p99 or 0.0,
        ttft_factor_max=slo.ttft_factor,
    )


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
    step = _with_decodes(alone, decoding[: orders.beside_max], limit_ms, orders.beside_min, model)
    beside = step.decodes - alone.decodes
    spare_ms = limit_ms - model.predict_ms(step)
    tokens = int(spare_ms / model.prefill_token_ms) if spare_ms > 0 and model.prefill_token_ms else 0
    if not decoding:  # nothing of the batch decodes: its first prompt goes on in small pieces, or it would starve
        tokens = max(tokens, orders.beside_min)
    return beside, tokens


def _with_decodes(
    step: StepShape, decoding: Sequence[Resident], limit_ms: float, at_least: int, model: StepModel
) -> StepShape:
    """The step with as many of the decodes, in their order, as fit into its time. Every step waits for this loop: it
    adds up what a decode costs and predicts nothing anew."""
    step_ms, decodes, context = model.predict_ms(step), step.decodes, step.context_tokens
    decode_ms, context_token_ms = model.decode_ms, model.context_token_ms
    for place, one in enumerate(decoding):
        step_ms += decode_ms + context_token_ms * one.context_tokens
        if place >= at_least and step_ms > limit_ms:
            break
        decodes += 1
        context += one.context_tokens
    return StepShape(decodes, step.prefill_tokens, context)


def _readers(prefilling: Sequence[Resident], tokens: int) -> list[Resident]:
    """Those whose prompts get the spare tokens, the last of them perhaps only in part."""
    readers = []
    for one in prefilling:
        if tokens <= 0:
            break
        readers.append(one)
        tokens -= one.prefill_left
    return readers


def share_idle(
    residents: Sequence[Resident],
    *,
    online_prompt_tokens: float,
    step_tokens_max: int,
    orders: Orders,
    model: StepModel,
) -> Share:
    """A step without online requests, so short that one which arrives meanwhile still has its first token in time.

    `residents` in the order in which they should take part, all of the batch; `online_prompt_tokens` is what the next
    online prompt is expected to have. Prompts of the batch get what its decodes leave, and a little in any case.
    """
    decoding = [one for one in residents if one.prefill_left == 0]
    if not model.is_trusted or not model.prefill_token_ms:
        tokens = max(1, min(step_tokens_max, orders.step_tokens_untrusted + len(decoding)))
        return Share(tuple(one.request_id for one in residents), tokens, len(residents) + tokens)
    limit_ms = idle_step_ms_max(orders, model, online_prompt_tokens)
    step = _with_decodes(StepShape(0, 0, 0), decoding, limit_ms, 1, model)
    taken = step.decodes
    spare_ms = limit_ms - model.predict_ms(step)
    prefill = max(PREFILL_TOKENS_MIN, int(spare_ms / model.prefill_token_ms))
    tokens = max(1, min(step_tokens_max, taken + prefill))
    readers = _readers([one for one in residents if one.prefill_left], tokens - taken)
    names = tuple(one.request_id for one in (*decoding[:taken], *readers))
    return Share(names, tokens, tokens)


def idle_step_ms_max(orders: Orders, model: StepModel, online_prompt_tokens: float) -> float:
    """What remains of the time to the first token once the prompt itself is read."""
    tokens = max(1, round(online_prompt_tokens))
    alone_ms = model.predict_ms(StepShape(0, tokens, tokens))
    limit_ms = orders.ttft_ms_max or alone_ms * orders.ttft_factor_max
    return max(orders.idle_step_ms_min, limit_ms - alone_ms)


PREFILL_TOKENS_MIN = 32
"""Also when decodes alone fill the time, prompts go on: no decode ends a queue that never shrinks."""


def rotated(candidates: Sequence[str], beside: Sequence[str], *, is_due: bool) -> list[str]:
    """The order in which batch requests are considered: those that took part last go on, so that the engine's batch
    changes little; when a rotation is due they go behind the others, of whom those after them have waited longest."""
    at = {one: place for place, one in enumerate(candidates)}
    were = [one for one in beside if one in at]
    going_on = set(were)
    others = [one for one in candidates if one not in going_on]
    if not is_due or not were:
        return [*were, *others]
    last = at[were[-1]]
    return [*(one for one in others if at[one] > last), *(one for one in others if at[one] < last), *were]
