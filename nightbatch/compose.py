"""The composition root: the one place where store, scheduler, engines and HTTP are chosen and joined."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.presence import Presence
from engine.registry import Registry
from nightbatch.config import Config, ConfigError
from nightbatch.config.notifying import WebhookConfig
from nightbatch.engines import Fleet, build_fleet
from nightbatch.lives import lives
from nightbatch.outside_signal import outside_signal
from nightbatch.terms import hold, terms
from scheduler.actors.hook import CommandTarget
from scheduler.actors.notifier import Target
from scheduler.actors.webhooks import WebhookSettings, WebhookTarget
from scheduler.loop import Scheduler
from scheduler.policy import limits
from scheduler.policy.delivering import secret_problem
from scheduler.policy.duty import DutySettings
from scheduler.policy.order import Packing
from scheduler.policy.pressure import PressureSettings
from scheduler.policy.taking_back import TakeBackSettings
from scheduler.settings import SchedulerSettings, ThrottleSettings
from server.app import create_app
from server.settings import ServerSettings, Tier
from server.tenants import Tenants
from store import Store, StoreSettings, open_store
from store.records import OnDeadline, OnInvalidLine, Reuse

if TYPE_CHECKING:
    from fastapi import FastAPI

MIB = 1024 * 1024
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class House:
    """Everything one server process is made of, joined and not yet running. Whoever composes it also closes it."""

    store: Store
    fleet: Fleet
    registry: Registry
    scheduler: Scheduler
    app: FastAPI


async def compose(
    config: Config,
    *,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    environment: Mapping[str, str] | None = None,
) -> House:
    """Open the data folder and join the parts. Raises store.records.FolderLocked and engine.memory's refusals before
    anything runs; the store is closed again when a later part refuses."""
    environment = os.environ if environment is None else environment
    store = await open_store(config.store.folder, settings=store_settings(config), now=now)
    try:
        fleet = await build_fleet(config, folder=config.store.folder / "engines", environment=environment, now=now)
        led = lives(config, fleet.lives)
        registry = Registry(
            fleet.engines, config.names, presence=Presence(fleet.devices, monotonic=monotonic), led=led.engines
        )
        settings = scheduler_settings(config)
        scheduler = Scheduler(
            store,
            registry,
            settings,
            now=now,
            monotonic=monotonic,
            holder=f"{socket.gethostname()}:{os.getpid()}:{int(now() * 1000)}",
            hold=hold(config, settings),
            terms=terms(config),
            signal=outside_signal(config.windows, environment, now),
            targets=targets(config, environment, now),
            lives=led,
            start_seconds=fleet.start_times.seconds,
            slos=fleet.slos,
        )
        registry.on_change(scheduler.wake)
        presence = registry.presence
        presence.on_change(lambda: store.yield_to_online(presence.here() > 0))
        app = create_app(
            store=store,
            registry=registry,
            wake=scheduler.wake,
            tenants=tenants(config),
            settings=server_settings(config),
            now=now,
        )
    except BaseException:
        await store.close()
        raise
    return House(store, fleet, registry, scheduler, app)


def store_settings(config: Config) -> StoreSettings:
    section = config.store
    return StoreSettings(
        upload_bytes_max=section.upload_mib_max * MIB,
        line_bytes_max=section.line_mib_max * MIB,
        lines_max=section.lines_max,
        line_errors_shown_max=section.line_errors_shown_max,
        index_workers_max=section.index_workers_max,
        intake_bytes_per_s_online=section.intake_mib_per_s_online * MIB,
        download_bytes_per_s_online=section.download_mib_per_s_online * MIB,
        online_linger_seconds=section.online_linger_seconds,
        disk_reserve_bytes=section.disk_reserve_mib * MIB,
        reuse_bytes_max=config.reuse.kept_mib_max * MIB,
        reuse_kept_seconds=config.reuse.kept_days * DAY_SECONDS,
        readers_max=section.readers_max,
    )


def scheduler_settings(config: Config) -> SchedulerSettings:
    section = config.scheduler
    return SchedulerSettings(
        packing=Packing(section.packing),
        shard_lines_max=section.shard_lines_max,
        shard_bytes_max=section.shard_mib_max * MIB,
        shards_open_max=section.shards_open_max,
        lease_seconds=section.lease_seconds,
        append_interval_ms=section.append_interval_ms,
        inflight_requests_multiple=section.inflight_requests_multiple,
        inflight_tokens_multiple=section.inflight_tokens_multiple,
        slice_sub_requests_max=section.slice_sub_requests_max,
        predict_lengths=section.predict_lengths,
        output_tokens_assumed=section.output_tokens_assumed,
        answer_attempts_max=section.answer_attempts_max,
        intakes_max=section.intakes_max,
        finalizes_max=section.finalizes_max,
        line_errors_shown_max=config.store.line_errors_shown_max,
        file_limits=limits.OPENAI if config.server.strict_openai else limits.NONE,
        output_retention_seconds=_days(config.server.output_kept_days),
        throttle=throttle_settings(config),
        # store.open_store holds the folder's lock for this process.
        sole_scheduler=True,
    )


def throttle_settings(config: Config) -> ThrottleSettings:
    section = config.online
    return ThrottleSettings(
        PressureSettings(
            inflight_min=section.inflight_min,
            inflight_untrusted=section.inflight_untrusted,
            online_slots=section.online_slots,
            quiet_seconds=section.quiet_seconds,
            idle_factor=section.idle_factor,
        ),
        DutySettings(step_ms_target=section.call_ms, share_max=section.call_share),
        TakeBackSettings(share_max=section.take_back_share),
    )


def targets(config: Config, environment: Mapping[str, str], now: Callable[[], float]) -> list[Target]:
    """Raises ConfigError when a webhook's secret is not where the configuration says."""
    found: list[Target] = [WebhookTarget(_webhook(one, environment), now=now) for one in config.webhooks]
    if config.events.on_event:
        found.append(CommandTarget(config.events.on_event, seconds_max=config.events.on_event_seconds_max))
    return found


def _webhook(webhook: WebhookConfig, environment: Mapping[str, str]) -> WebhookSettings:
    secrets = list(webhook.secrets)
    if webhook.secret_env is not None:
        secret = environment.get(webhook.secret_env, "")
        problem = secret_problem(secret)
        if problem is not None:
            variable = webhook.secret_env
            raise ConfigError(
                [f"webhooks: {webhook.name}: the secret in the variable {variable} cannot be used: {problem}"]
            )
        secrets.append(secret)
    return WebhookSettings(
        webhook.name, webhook.url, secrets, webhook.events, webhook.tenant, allow_private=webhook.allow_private
    )


def server_settings(config: Config) -> ServerSettings:
    return ServerSettings(
        tiers={
            name: Tier(tier.seconds, OnDeadline(tier.on_deadline))
            for name, tier in config.tiers.items()
            if tier.offered and (name == "24h" or not config.server.strict_openai)
        },
        strict_openai=config.server.strict_openai,
        upload_bytes_max=config.store.upload_mib_max * MIB,
        json_body_bytes_max=config.server.json_body_mib_max * MIB,
        batch_file_expires_seconds=_days(config.server.input_kept_days),
        output_expires_seconds=_days(config.server.output_kept_days),
        on_invalid_line=OnInvalidLine(config.server.on_invalid_line),
        reuse=Reuse(config.reuse.default),
        flex_inflight_max=config.server.flex_inflight_max,
        flex_beside_online_max=config.server.flex_beside_online_max,
    )


def tenants(config: Config) -> Tenants:
    return Tenants({digest: tenant.name for tenant in config.tenants for digest in tenant.key_sha256})


def _days(days: float) -> int | None:
    """Zero means kept until deleted."""
    return math.ceil(days * DAY_SECONDS) or None
