"""The server's end of the channel: gives orders, reads reports, shows them, and says when a promise cannot be kept."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from engine.slo import Slo
from engine.vllm.online_first.channel import Channel, Report
from engine.vllm.online_first.policy import Mode, Orders, orders_for
from engine.vllm.online_first.step_model import ERROR_TRUSTED_MAX, STEPS_TRUSTED_MIN

GAUGES: dict[str, tuple[str, str]] = {
    "steps_beside": ("online_first_steps_beside", "Steps with an online request present since the engine started"),
    "parked": ("online_first_parked", "Batch requests that sat the last step out with their KV cache kept"),
    "beside": ("online_first_beside", "Batch requests that took part in the last bounded step"),
    "preemptions": ("online_first_preemptions", "Batch requests that gave slot and KV cache to an online one"),
    "base_ms": ("online_first_step_base_ms", "Fitted: what every step takes (ms)"),
    "decode_ms": ("online_first_step_decode_ms", "Fitted: what one decoding request adds to a step (ms)"),
    "prefill_token_ms": ("online_first_step_prefill_token_ms", "Fitted: what one prompt token adds to a step (ms)"),
    "relative_error": ("online_first_step_error", "Mean relative error of the fitted step time"),
    "online_step_ms": ("online_first_online_step_ms", "Mean time of a step with an online request present (ms)"),
}


class Link:
    """One engine's channel, made anew for each of its lives. `open` blocks; the rest is a look into memory."""

    def __init__(self, engine: str, path: Path, slo: Slo) -> None:
        self._engine = engine
        self._path = path
        self._slo = slo
        self._orders = orders_for(slo)
        self._channel: Channel | None = None
        self._warned = False

    @property
    def orders(self) -> Orders:
        return self._orders

    @property
    def is_active(self) -> bool:
        """The engine's scheduler follows our orders. It reports no step where it left the scheduling to vLLM."""
        return self._orders.mode is Mode.ONLINE_FIRST and self.report().steps > 0

    def open(self) -> Path:
        """The path for the engine's side; orders given before stay in force."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.close()
        self._path.unlink(missing_ok=True)  # whoever still has the old one keeps its own
        self._channel = Channel.create(self._path, self._orders)
        return self._path.resolve()

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def give(self, orders: Orders) -> None:
        """In force from the engine's next step on."""
        self._orders = orders
        if self._channel is not None:
            self._channel.give(orders)

    def report(self) -> Report:
        return Report() if self._channel is None else self._channel.reported(Report())

    def broken_promise(self) -> str | None:
        """Once: a sentence when the service level is below what the engine needs for an online request alone."""
        if self._warned:
            return None
        sentence = too_strict(self._slo, self.report())
        self._warned = sentence is not None
        return None if sentence is None else f"engine {self._engine}: {sentence}"

    def exposition(self) -> str:
        registry = CollectorRegistry(auto_describe=False)
        report = self.report()
        for name, (series, text) in GAUGES.items():
            Gauge(f"nightbatch_{series}", text, registry=registry).set(getattr(report, name))
        return generate_latest(registry).decode()


def too_strict(slo: Slo, report: Report) -> str | None:
    """What of the service level no scheduling can keep, by the fitted step times; None while they are not known."""
    if report.steps < STEPS_TRUSTED_MIN or report.relative_error > ERROR_TRUSTED_MAX:
        return None
    token_ms = max(0.0, report.base_ms) + max(0.0, report.decode_ms)
    first_ms = max(0.0, report.base_ms) + max(0.0, report.prefill_token_ms)
    found = []
    if slo.itl_ms_p99 is not None and slo.itl_ms_p99 < token_ms:
        found.append(f"slo.itl_ms_p99 is {slo.itl_ms_p99:g} ms, and one token takes {token_ms:.1f} ms")
    if slo.ttft_ms_p99 is not None and slo.ttft_ms_p99 < first_ms:
        found.append(f"slo.ttft_ms_p99 is {slo.ttft_ms_p99:g} ms, and the shortest prompt takes {first_ms:.1f} ms")
    if not found:
        return None
    return f"{'; '.join(found)}: batch work gives way as far as it can, and the promise is broken all the same"
