"""Judges a batch that is about to start by what is measured and due just now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from scheduler.actors.measures import Measures
from scheduler.facts.capacity import Served, Supply
from scheduler.facts.tiers import DEFAULT_TERMS
from scheduler.facts.work import job_of, models_of
from scheduler.policy.admission import INFEASIBLE_CODE, Remark, judge
from scheduler.policy.holding import Hold
from scheduler.policy.terms import OnInfeasible, Terms
from store.records import BatchRecord, BatchStatus, RequestCounts


class Admission:
    """`going` are all batches that have not ended, as last seen; `served` the models that come and go."""

    def __init__(
        self,
        measures: Measures,
        terms: Terms,
        hold: Hold | None,
        *,
        going: Callable[[], Sequence[BatchRecord]],
        served: Callable[[], Mapping[str, Served]] = dict,
    ) -> None:
        self._measures = measures
        self._terms = terms
        self._hold = hold
        self._going = going
        self._served = served

    def judge(self, batch: BatchRecord, *, lines: int, tokens_per_line: float, now: float) -> Remark | None:
        """None where there is nothing to say; INFEASIBLE_CODE where its deadline cannot be promised."""
        rates = self._measures.seconds_per_line()
        job = job_of(
            replace(batch, counts=RequestCounts(total=lines)),
            now=now,
            seconds_per_line=rates,
            relative_size=self._measures.relative_size_of(models_of(batch), tokens_per_line),
            terms=self._terms.tiers.get(batch.completion_window, DEFAULT_TERMS),
        )
        running = [one for one in self._going() if one.status is BatchStatus.IN_PROGRESS and one.held_at is None]
        sizes = self._measures.relative_sizes(running)
        others = [job_of(one, now=now, seconds_per_line=rates, relative_size=sizes[one.id]) for one in running]
        peak_share = self._measures.peak_share()
        until = max(one.due_at for one in (job, *others))
        calendar, served = self._terms.calendar, self._served()
        supply = Supply(calendar, now=now, until=until, peak_share=peak_share, served=served)
        return judge(
            job,
            others,
            capacity=supply.of(job.models),
            peak_share=peak_share,
            waits_for_windows=self._hold is not None and self._hold.holds(batch.completion_window),
            tenant_weights=self._terms.order.tenant_weights,
            zone=calendar.zone,
            together=supply.together,
        )

    def refuses(self, remark: Remark) -> bool:
        return remark.code == INFEASIBLE_CODE and self._terms.on_infeasible is OnInfeasible.REFUSE
