"""What running tells of the work to come: rates by model, sizes by batch, and what each tenant has had."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from engine.registry import Registry
from scheduler.actors.inputs import BatchInput, Inputs
from scheduler.actors.waiting import Ended
from scheduler.facts.curve import WorkCurve
from scheduler.facts.rates import ModelRate
from scheduler.facts.sizes import LINES_TOLD, LineSizes, ended_lines, expected_tokens
from scheduler.facts.work import ModelKey, line_seconds, models_of
from scheduler.policy.fairness import Accounts
from scheduler.policy.terms import Terms
from scheduler.settings import SchedulerSettings
from store.records import BatchRecord, StoreError

log = logging.getLogger(__name__)


class Measures:
    def __init__(
        self,
        registry: Registry,
        settings: SchedulerSettings,
        inputs: Inputs,
        terms: Terms,
        *,
        curve: Callable[[str], WorkCurve | None] = lambda _batch_id: None,
    ) -> None:
        """`curve` tells how a batch's work lies in its lines, where that is known."""
        self._curve = curve
        self._registry = registry
        self._settings = settings
        self._inputs = inputs
        self._terms = terms
        self._rates: dict[ModelKey, ModelRate] = {}
        self._sizes = LineSizes()
        self._accounts = Accounts()

    # --- rates

    def count(self, ended: Mapping[ModelKey, Ended], *, seconds: float, now: float) -> None:
        """What ended in the last `seconds`; a model that could not run has no rate for that time."""
        is_peak = self._is_peak(now)
        for key, found in ended.items():
            if found.lines or self._registry.candidates(key.id, key.revision):
                rate = self._rates.setdefault(key, ModelRate())
                rate.add(lines=found.lines, busy_seconds=seconds, is_peak=is_peak, is_full=found.is_full)

    def _is_peak(self, now: float) -> bool:
        calendar = self._terms.calendar
        return not calendar.is_always_open and calendar.open_at(now) is None

    def seconds_per_line(self) -> dict[ModelKey, float]:
        return {key: rate.seconds_per_line for key, rate in self._rates.items()}

    def peak_share(self) -> float:
        """Of the model that online work leaves least."""
        return min((rate.peak_share for rate in self._rates.values()), default=ModelRate().peak_share)

    # --- sizes

    def relative_sizes(self, batches: Sequence[BatchRecord]) -> dict[str, float]:
        """Of the lines that are left of each."""
        return {batch.id: self._sizes.relative(batch) * self._rest_by_done(batch) for batch in batches}

    def _rest_by_done(self, batch: BatchRecord) -> float:
        """Long lines run first: those that are left are less work than those by which the batch is judged."""
        curve, ended = self._curve(batch.id), ended_lines(batch)
        return 1.0 if curve is None or ended < LINES_TOLD else curve.rest_by_done(ended)

    def size_of(self, source: BatchInput) -> float:
        """Of a mean line of an input, as its index tells, in read tokens. Blocking."""
        index = source.index
        if not index.count:
            return 0.0
        outputs = index.column("output_tokens")
        outputs[outputs == 0] = self._settings.output_tokens_assumed
        each = np.maximum(index.column("sub_requests"), 1)
        return expected_tokens(
            prompt_bytes=float(index.column("prompt_bytes").mean()),
            output_tokens=float(np.multiply(outputs, each, dtype=np.float64).mean()),
        )

    def relative_size_of(self, models: Collection[ModelKey], tokens_per_line: float) -> float:
        return max((self._sizes.relative_of(key, tokens_per_line) for key in models), default=1.0)

    async def look_at_sizes(self, batches: Sequence[BatchRecord]) -> None:
        """Of one batch that is not known yet: a restart forgets them."""
        for batch in batches:
            if self._sizes.knows(batch.id):
                continue
            try:
                source = await self._inputs.open(batch)
                self._sizes.expect(batch.id, await asyncio.to_thread(self.size_of, source))
            except StoreError:  # whoever needs the file says what is wrong with it
                self._sizes.expect(batch.id, 0.0)
            return

    # --- shares

    def ahead(self) -> Mapping[str, float]:
        return self._accounts.ahead

    def settle(self, batches: Sequence[BatchRecord], *, able: Collection[str]) -> None:
        """Charge what ended since the last call to its tenants. `able` are the batches that may run now."""
        rates = self.seconds_per_line()
        served: dict[str, float] = defaultdict(float)
        for batch in batches:
            ended = self._sizes.see(batch)
            rate = line_seconds(models_of(batch), rates)
            if ended and rate is not None:
                served[batch.tenant] += ended * rate * self._sizes.relative(batch)
        self._sizes.forget_all_but(frozenset(batch.id for batch in batches))
        self._accounts.settle(
            served,
            able={batch.tenant for batch in batches if batch.id in able},
            present={batch.tenant for batch in batches},
            weights=self._terms.order.tenant_weights,
        )
