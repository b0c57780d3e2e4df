"""The server's end of the channel: orders out of a service level, reports as series, promises that cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.slo import Slo
from engine.vllm.online_first.channel import Channel, Report
from engine.vllm.online_first.link import Link, too_strict
from engine.vllm.online_first.policy import Orders, orders_for

FITTED = Report(steps=1000, base_ms=8.0, decode_ms=1.2, prefill_token_ms=0.6, relative_error=0.1)


def test_a_service_level_in_milliseconds_becomes_bounds_of_steps() -> None:
    orders = orders_for(Slo(ttft_ms_p99=300.0, itl_ms_p99=40.0))
    assert (orders.ttft_ms_max, orders.itl_ms_max) == (300.0, 40.0)
    auto = orders_for(Slo(itl_factor=1.25, ttft_factor=1.8))
    assert (auto.ttft_ms_max, auto.itl_ms_max) == (0.0, 0.0)
    assert (auto.ttft_factor_max, auto.itl_factor_max) == (1.8, 1.25)


def test_orders_given_before_and_after_the_start_reach_the_engine(tmp_path: Path) -> None:
    link = Link("chat", tmp_path / "engines" / "chat.channel", Slo(itl_ms_p99=40.0))
    engine = Channel.open(link.open())
    assert engine.orders(Orders()).itl_ms_max == 40.0
    link.give(Orders(is_paused=True))
    assert engine.orders(Orders()).is_paused
    assert Channel.open(link.open()).orders(Orders()).is_paused, "a restarted engine gets what holds now"
    link.close()


def test_what_the_scheduler_reports_is_shown_as_series(tmp_path: Path) -> None:
    link = Link("chat", tmp_path / "chat.channel", Slo())
    Channel.open(link.open()).report(Report(steps=5, parked=12, decode_ms=1.5))
    text = link.exposition()
    assert "nightbatch_online_first_parked 12.0" in text
    assert "nightbatch_online_first_step_decode_ms 1.5" in text
    link.close()


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        (Slo(itl_ms_p99=9.0), "slo.itl_ms_p99 is 9 ms, and one token takes 9.2 ms"),
        (Slo(ttft_ms_p99=8.0), "slo.ttft_ms_p99 is 8 ms, and the shortest prompt takes 8.6 ms"),
        (Slo(itl_ms_p99=10.0, ttft_ms_p99=100.0), None),
        (Slo(), None),
    ],
)
def test_a_promise_below_what_the_engine_needs_alone_is_named_with_the_figure(slo: Slo, said: str | None) -> None:
    found = too_strict(slo, FITTED)
    assert found is None if said is None else found is not None and said in found
    assert too_strict(slo, Report(steps=3, base_ms=8.0, decode_ms=1.2)) is None


def test_a_promise_that_cannot_be_kept_is_said_once(tmp_path: Path) -> None:
    link = Link("chat", tmp_path / "chat.channel", Slo(itl_ms_p99=1.0))
    engine = Channel.open(link.open())
    assert link.broken_promise() is None
    engine.report(FITTED)
    assert "engine chat: slo.itl_ms_p99 is 1 ms" in str(link.broken_promise())
    assert link.broken_promise() is None
    link.close()
