from __future__ import annotations

import pytest

from benchmarks import interference_figures as figures
from benchmarks.interference_arms import ARMS
from benchmarks.interference_figures import Window
from benchmarks.interference_report import report_of


def window(ttft_ms: float, itl_ms: float, *, requests: int = 10, output: int = 0, prompt: int = 0) -> Window:
    return Window(
        10.0,
        [ttft_ms + position for position in range(requests)],
        [itl_ms] * (requests * 5),
        present_seconds=2.5,
        batch_output=output,
        batch_prompt=prompt,
    )


def test_a_window_is_made_from_what_clients_saw() -> None:
    found = figures.window_of([(100.0, [100.1, 100.13, 100.16])], 99.0, 109.0, batch_output=7)
    assert list(found.ttft_ms) == pytest.approx([100])
    assert list(found.itl_ms) == pytest.approx([30, 30])
    assert found.present_seconds == pytest.approx(0.16)
    assert (found.seconds, found.batch_output) == (10.0, 7)


def test_a_ratio_compares_percentiles_over_all_windows_with_online_alone() -> None:
    alone, ours = [window(50, 12), window(50, 12)], [window(100, 18), window(100, 18)]
    found = figures.ratios("ours", ours, alone)
    assert found["ours_itl_p50_ratio"].value == pytest.approx(1.5)
    assert found["ours_itl_p50_ratio"].n == 100
    assert found["ours_ttft_p50_ratio"].value == pytest.approx(104 / 54)
    assert found["ours_ttft_p50_ratio"].interval is not None


def test_there_is_no_p99_of_the_first_token_from_fewer_than_500_requests() -> None:
    few, many = [window(50, 12, requests=499)], [window(50, 12, requests=500)]
    assert "x_ttft_p99_ratio" not in figures.ratios("x", few, many)
    assert "x_ttft_p99_ratio" not in figures.ratios("x", many, few)
    assert "x_ttft_p99_ratio" in figures.ratios("x", many, many)
    assert "ttft_p99_ms" not in figures.latencies(few)
    assert "itl_p99_ms" in figures.latencies(few)


def test_a_share_compares_rates_and_not_sums() -> None:
    ceiling = [Window(10.0, batch_output=1000), Window(10.0, batch_output=1000)]
    short = [Window(5.0, batch_output=400), Window(5.0, batch_output=400)]
    found = figures.share(short, ceiling, figures.output_tokens)
    assert found.value == pytest.approx(0.8)
    assert found.n == 2


def test_the_ceiling_is_the_arm_that_got_most_done() -> None:
    measured = {"batch_alone": [Window(10.0, batch_output=500)], "batch_alone_256": [Window(10.0, batch_prompt=600)]}
    assert figures.better(measured, ("batch_alone", "batch_alone_256")) == "batch_alone_256"
    assert figures.better({"batch_alone": measured["batch_alone"]}, ("batch_alone", "batch_alone_256")) == "batch_alone"


def test_rounds_without_a_request_do_not_break_the_interval() -> None:
    empty = Window(10.0)
    found = figures.ratios("x", [window(100, 18), empty], [window(50, 12), empty])
    assert found["x_itl_p50_ratio"].value == pytest.approx(1.5)


def test_the_report_names_the_figures_of_every_arm_that_was_run() -> None:
    measured = {
        "online_alone": [window(50, 12)] * 2,
        "batch_alone": [window(0, 0, requests=0, output=4000, prompt=2000)] * 2,
        "online_first": [window(90, 17, output=3000, prompt=1800)] * 2,
        "other_engine": [window(60, 14)] * 2,
        "embeddings_alone": [Window(10.0, embedded_tokens=1000)] * 2,
    }
    report = report_of({name: ARMS[name] for name in measured}, measured, {"cores": 2}, ["a note"])
    assert {
        f"online_first_{name}" for name in ("presence", "ttft_p50_ratio", "ttft_p90_ratio")
    } <= report.figures.keys()
    assert {"online_first_itl_p50_ratio", "online_first_itl_p99_ratio"} <= report.figures.keys()
    assert report.figures["online_first_ceiling_share"].value == pytest.approx(0.8)
    assert report.figures["other_engine_itl_p50_ratio"].value == pytest.approx(14 / 12)
    assert report.figures["other_engine_ceiling_share"].value == 0
    assert not any(name.startswith(("online_alone", "batch_alone")) for name in report.figures)
    assert [arm.name for arm in report.arms] == list(measured)
    assert report.notes[-1] == "The ceiling is batch_alone."
