"""The scheduler's Prometheus series. One process has one set; two schedulers in one process add up."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from store.records import BatchRecord, BatchStatus

BATCHES = Gauge("nightbatch_batches", "Batches that have not ended, by status.", ["status"])
BATCHES_PAUSED = Gauge("nightbatch_batches_paused", "Batches in progress that wait for an engine or for disk space.")
BATCHES_ENDED = Counter("nightbatch_batches_ended", "Batches that ended here, by final status.", ["status"])
LINES_DONE = Counter("nightbatch_lines_done", "Lines with a durable result, by outcome.", ["outcome"])
LINES_REUSED = Counter(
    "nightbatch_lines_reused",
    "Lines that got the answer of an identical one, by where it was: memory, store.",
    ["where"],
)
TOKENS = Counter("nightbatch_tokens", "Tokens of durable results, by kind.", ["kind"])
INFLIGHT_REQUESTS = Gauge("nightbatch_inflight_requests", "Sub-requests in flight for batches.", ["engine"])
INFLIGHT_TOKENS = Gauge("nightbatch_inflight_tokens", "Estimated KV tokens in flight for batches.", ["engine"])
PREDICTED_TOKENS = Counter(
    "nightbatch_predicted_tokens",
    "KV tokens of answered requests, by kind: predicted before they were sent, needed in the end.",
    ["kind"],
)
TEMPLATES_KNOWN = Gauge("nightbatch_templates_known", "Templates of lines whose answers' lengths are remembered.")
KV_SHARE = Gauge(
    "nightbatch_kv_share",
    "Share of an engine's KV memory that predictions may fill; it falls when they err.",
    ["engine"],
)
ENGINE_BUSY_SHARE = Gauge(
    "nightbatch_engine_busy_share",
    "Share of the last minute's time in which lines waited that the engine had something to run; NaN: nothing waited.",
    ["engine"],
)
ENGINE_RUNNING = Gauge(
    "nightbatch_engine_running_mean",
    "Requests that the engine ran at once while lines waited; NaN: none did.",
    ["engine"],
)
FRONT_SHARE = Gauge("nightbatch_front_core_share", "Share of a core that the front of an engine uses.", ["engine"])
FRONT_MS = Gauge("nightbatch_front_ms_per_request", "CPU time of an engine's front for one request (ms).", ["engine"])
INFLIGHT_CAP = Gauge(
    "nightbatch_inflight_cap", "Sub-requests that batches may have in flight now, beside online requests.", ["engine"]
)
ONLINE_PRESENT = Gauge(
    "nightbatch_online_present",
    "Online requests that batch work on the engine yields to, by where they are: here, elsewhere, neighbour.",
    ["engine", "where"],
)
ONLINE_STRESS = Gauge(
    "nightbatch_online_stress", "What online requests wait, as a multiple of what they should; 0: unknown.", ["engine"]
)
SHARDS_OPEN = Gauge("nightbatch_shards_open", "Shards that this process holds.")
APPEND_SECONDS = Histogram(
    "nightbatch_append_group_seconds",
    "Time to make one group of results durable.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
LINES_REGENERATED = Counter(
    "nightbatch_lines_regenerated", "Answers that were lost before they were durable, so that the line ran again."
)
LINES_RETRIED = Counter("nightbatch_lines_retried", "Lines sent again, by reason.", ["reason"])
ENGINE_DEATHS = Counter("nightbatch_engine_deaths", "Engine deaths with batch requests in flight.", ["engine"])
LINES_BLAMED = Counter("nightbatch_lines_blamed", "Lines that killed an engine while alone in flight.")
DISK_PAUSES = Counter("nightbatch_disk_pauses", "Times that leasing stopped because the disk was below its reserve.")
DELIVERIES = Counter("nightbatch_deliveries", "Tries to deliver an event.", ["target", "outcome"])
DELIVERIES_PENDING = Gauge("nightbatch_deliveries_pending", "Events that a target has not taken yet.", ["target"])
SIGNAL_HOLDS = Gauge("nightbatch_signal_holds", "Whether batch work waits for the outside signal.")
SIGNAL_FAILURES = Counter("nightbatch_signal_failures", "Looks at the outside signal that gave no reading.")
JOB_FAILURES = Counter("nightbatch_job_failures", "Unexpected ends of an actor's work on one batch.", ["job"])
FINALIZE_SECONDS = Histogram(
    "nightbatch_finalize_seconds", "Time to compose a batch's files.", buckets=(0.01, 0.05, 0.25, 1, 5, 25, 120, 600)
)


def show_batches(active: Sequence[BatchRecord]) -> None:
    by_status = collections.Counter(batch.status for batch in active)
    for status in BatchStatus:
        if not status.terminal:
            BATCHES.labels(status.value).set(by_status[status])
    BATCHES_PAUSED.set(sum(batch.paused_at is not None for batch in active))
