from __future__ import annotations

from dataclasses import asdict

import pytest

from benchmarks import interference_arms, interference_engines, interference_plot, interference_server
from benchmarks.baseline_caps import AIMD_START, Aimd, static
from benchmarks.form import CouldNotMeasure, Figure
from benchmarks.interference_arms import ARMS, NEEDED, chosen
from benchmarks.interference_rig import Folders
from engine.vllm.online_first.policy import Mode
from nightbatch.config import load
from scheduler.policy.pressure import Signs


def signs(now: float, *, online: int = 0, waiting: int = 0) -> Signs:
    return Signs(
        now=now,
        online=online,
        beside=0,
        quiet_seconds=None,
        inflight=0,
        inflight_max=96,
        slots=64,
        others=online,
        waiting=waiting,
    )


def test_a_quick_run_has_the_arms_that_are_ours_and_what_ratios_need() -> None:
    assert list(chosen("", quick=True)) == [name for name in ARMS if name in interference_arms.QUICK]
    assert list(chosen("", quick=False)) == list(ARMS)
    assert set(chosen("priority", quick=True)) == {*NEEDED, "priority"}


def test_an_arm_that_does_not_exist_is_named() -> None:
    with pytest.raises(CouldNotMeasure, match=r"no arm nonsense; there are online_alone"):
        chosen("nonsense", quick=True)


def test_an_arm_that_needs_another_one_for_its_share_brings_it() -> None:
    assert "embeddings_alone" in chosen("other_engine", quick=True)


def test_orders_can_be_changed_for_an_arm_or_make_a_new_one() -> None:
    arms = chosen(
        "online_first",
        quick=True,
        changes=[
            "online_first:itl_factor_max=1.7,beside_min=3",
            "mine:itl_ms_max=20,step_tokens=512",
            "feedback_cap:long_prefill_tokens=0",
        ],
    )
    assert arms["online_first"].orders.itl_factor_max == 1.7
    assert arms["online_first"].orders.beside_min == 3
    assert (arms["mine"].orders.itl_ms_max, arms["mine"].step_tokens, arms["mine"].name) == (20, 512, "mine")
    assert (arms["feedback_cap"].long_prefill_tokens, arms["feedback_cap"].cap) == (0, "feedback")
    assert arms["mine"].orders.mode is Mode.ONLINE_FIRST


@pytest.mark.parametrize("change", ["mine:itl=3", "mine:itl_ms_max=fast", "mine:itl_ms_max"])
def test_orders_that_do_not_exist_are_named_with_those_that_do(change: str) -> None:
    with pytest.raises(CouldNotMeasure, match=r"--orders mine: .*: one of step_tokens, long_prefill_tokens, mode"):
        chosen("", quick=True, changes=[change])


@pytest.mark.parametrize("arm", ARMS.values(), ids=lambda arm: arm.name)
def test_orders_reach_the_server_as_they_are(arm: interference_arms.Setting) -> None:
    assert interference_server.orders_of(asdict(arm.orders)) == arm.orders


def test_the_configuration_of_the_engines_is_one_that_the_server_takes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folders = Folders.under(tmp_path)
    engines = interference_engines.of("smollm2-135m-instruct", chosen("", quick=True), folders, (), "cpu")
    file = tmp_path / "nightbatch.toml"
    file.write_text(engines.config)
    config = load(file, environment={})
    assert [model.online_first for model in config.served] == [True, False]
    assert engines.slots == interference_engines.SLOTS
    assert engines.embeddings is not None


def test_without_an_arm_that_embeds_there_is_no_second_engine(tmp_path) -> None:  # type: ignore[no-untyped-def]
    engines = interference_engines.of("m", chosen("fcfs", quick=True), Folders.under(tmp_path), (), "cpu")
    assert engines.models == ["m"]
    assert engines.embeddings is None


def test_a_static_cap_never_moves() -> None:
    governor = static(8)
    assert governor(signs(0)).requests_max == governor(signs(9, online=5, waiting=5)).requests_max == 8


def test_aimd_halves_while_online_requests_queue_and_grows_by_one_a_second_while_the_cache_is_free() -> None:
    kv_use = 0.1
    aimd = Aimd(lambda: kv_use)
    assert aimd(signs(0)).requests_max == AIMD_START + 1
    assert aimd(signs(0.5)).requests_max == AIMD_START + 1
    assert aimd(signs(1)).requests_max == AIMD_START + 2
    assert aimd(signs(2, online=1, waiting=1)).requests_max == (AIMD_START + 2) // 2
    kv_use = 0.7
    assert aimd(signs(3)).requests_max == (AIMD_START + 2) // 2
    kv_use = 0.9
    assert aimd(signs(4)).requests_max == (AIMD_START + 2) // 4
    for second in range(5, 20):
        aimd(signs(second))
    assert aimd.cap == 1


def test_aimd_stays_within_the_slots_of_the_engine() -> None:
    aimd = Aimd(lambda: 0.0)
    for second in range(200):
        aimd(signs(second))
    assert aimd.cap == 64


def test_the_plot_shows_the_arms_whose_share_is_of_the_chat_batch(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    figures = {
        f"{arm}_{name}": Figure(value, "x", 4, (value * 0.9, value * 1.1))
        for arm in ("online_first", "priority", "other_engine")
        for name, value in (("ceiling_share", 0.8), ("ttft_p90_ratio", 2.1), ("itl_p50_ratio", 1.4))
    }
    assert set(interference_plot.points(figures, "ttft_p90_ratio")) == {"online_first", "priority"}
    interference_plot.draw(figures, tmp_path / "plots" / "found.png", "a title")
    assert (tmp_path / "plots" / "found.png").read_bytes().startswith(b"\x89PNG")
