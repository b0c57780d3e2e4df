"""The interference benchmark on simulated devices: what it plays, counts and compares."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import interference_figures, interference_simulated
from benchmarks.form import CouldNotMeasure
from benchmarks.interference_figures import Window
from benchmarks.simulated_arms import ARMS, Play, Setting
from benchmarks.simulated_load import LOADS, OnlineRequest, batch_lines
from engine.simulated.profiles import PROFILES

CPU = "cpu-135m"
ONLINE = [OnlineRequest(3.0 * number + 0.3, 60, 20) for number in range(30)]
SECONDS = 30.0


def play(name: str, online: list[OnlineRequest] = ONLINE, *, windows: int = 2) -> list[Window]:
    return Play(ARMS[name], CPU, online, SECONDS, windows).run()


def median(windows: list[Window], sample: interference_figures.Sampler) -> float:
    return interference_figures.pooled(windows, sample, 0.5)


def test_alone_an_online_request_takes_what_the_preset_says() -> None:
    windows = play("online_alone")
    assert interference_figures.count(windows, interference_figures.ttft) == 20
    profile = PROFILES[CPU]
    assert median(windows, interference_figures.ttft) == pytest.approx(1_000 * profile.seconds_of_step(0, 60), rel=0.1)
    assert median(windows, interference_figures.itl) == pytest.approx(1_000 * profile.seconds_of_step(1, 0), rel=0.1)
    assert sum(window.batch_output for window in windows) == 0


def test_a_run_repeats_to_the_last_digit() -> None:
    assert play("online_first") == play("online_first")


def test_every_line_of_a_window_is_counted_once() -> None:
    """Without online requests, output and prompt tokens are those of the lines that went through."""
    windows = play("batch_alone", [], windows=3)
    assert all(window.batch_output > 0 and window.batch_prompt > 0 for window in windows)
    share = sum(one.batch_output for one in windows) / sum(one.batch_output + one.batch_prompt for one in windows)
    lines = list(itertools.islice(batch_lines(LOADS[CPU], 32), 2_000))
    prompts = sum(
        line.prompt_tokens - (608 if line.prompt_tokens < 700 and line.output_tokens < 10 else 0) for line in lines
    )
    output = sum(line.output_tokens for line in lines)
    assert share == pytest.approx(output / (output + prompts), abs=0.1)


def test_ours_is_nearer_to_alone_than_priority_and_still_works_on_the_batch() -> None:
    alone, priority, ours = play("online_alone"), play("priority"), play("online_first")
    for sample in (interference_figures.ttft, interference_figures.itl):
        assert median(ours, sample) < 3 * median(alone, sample)
        assert median(priority, sample) > 5 * median(alone, sample)
    ceiling = play("batch_alone")
    assert interference_figures.share(ours, ceiling, interference_figures.all_tokens).value > 0.4


def test_a_static_cap_holds_and_feedback_acts() -> None:
    free, static, feedback = play("priority"), play("static_cap"), play("feedback_cap")
    assert median(static, interference_figures.itl) < median(free, interference_figures.itl) / 4
    assert median(feedback, interference_figures.itl) < median(free, interference_figures.itl) / 2


@pytest.mark.parametrize("preset", sorted(LOADS))
def test_lines_of_a_kind_share_their_instruction_and_nothing_else(preset: str) -> None:
    block_tokens = PROFILES[preset].block_tokens
    lines = list(itertools.islice(batch_lines(LOADS[preset], block_tokens), 200))
    seen: dict[int, int] = {}
    for number, line in enumerate(lines):
        assert len(line.block_hashes) == line.prompt_tokens // block_tokens
        for block in line.block_hashes:
            seen.setdefault(block, number)
    fresh = [sum(seen[block] == number for block in line.block_hashes) for number, line in enumerate(lines)]
    assert max(len(line.block_hashes) - new for line, new in zip(lines, fresh, strict=True)) == 608 // block_tokens


def test_the_command_writes_the_figures_of_the_arms_that_were_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(interference_simulated.LENGTHS_QUICK, CPU, interference_simulated.Length(3, 10.0))
    path = tmp_path / "report.json"
    flags = ["--quick", "--preset", CPU, "--arms", "online_first", "--json", str(path)]
    assert interference_simulated.main(flags) == 0
    figures = json.loads(path.read_text())["figures"]
    assert figures["cpu_online_first_ceiling_share"]["value"] > 0.3
    assert figures["cpu_online_first_itl_p50_ratio"]["n"] > 50
    assert "cpu_online_first_ttft_p99_ratio" not in figures  # from so few requests that is no figure
    assert "cpu online_first" in capsys.readouterr().out


def test_what_cannot_be_chosen_is_named() -> None:
    with pytest.raises(CouldNotMeasure, match="no preset tpu; there are cpu-135m, gpu-8b"):
        interference_simulated.chosen("tpu", LOADS, "preset")


def test_orders_of_an_arm_are_shown() -> None:
    setting = replace(ARMS["online_first"], name="other")
    assert isinstance(setting, Setting)
    assert setting.facts(CPU)["itl_factor_max"] == setting.orders.itl_factor_max  # type: ignore[union-attr]
