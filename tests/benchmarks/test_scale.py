from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scale, scale_lines, scale_run
from benchmarks.form import CouldNotMeasure, Figure, Options
from benchmarks.scale_lines import Beginnings
from benchmarks.scale_run import Run
from store.line_shapes import NO_LADDER
from store.lines import LineFacts, check_line

MIB = 2**20


def facts_of(lines: list[bytes]) -> list[LineFacts]:
    found = [check_line(line) for line in lines]
    return [facts for facts in found if isinstance(facts, LineFacts)]


@pytest.mark.parametrize("beginnings", list(Beginnings))
def test_lines_are_well_formed_of_one_length_and_begin_as_asked(tmp_path: Path, beginnings: Beginnings) -> None:
    path = scale_lines.write(tmp_path / "in.jsonl", 2_100, model="m", beginnings=beginnings)
    lines = path.read_bytes().splitlines(keepends=True)
    assert {len(line) for line in lines} == {scale_lines.LINE_BYTES}
    facts = facts_of([line.rstrip() for line in lines])
    assert len({one.custom_id for one in facts}) == 2_100
    ladders = {one.ladder[:8] for one in facts}
    assert NO_LADDER[:8] not in ladders
    assert len(ladders) == (1 if beginnings is Beginnings.IDENTICAL else 2_100)


def test_result_lines_are_compared_with_the_input(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    results = [b'{"id":"x","custom_id":"line-%08d","response":{}}\n' % number for number in range(3)]
    path.write_bytes(b"".join(results))
    assert scale_lines.lines_in_order(path) == 3
    path.write_bytes(results[0] + results[2])
    assert scale_lines.lines_in_order(path) == -1
    with pytest.raises(CouldNotMeasure, match="are not those of the input"):
        scale_run.check(path, 3)


def a_run(lines: int, *, seconds: float, cpu: float, rss_mib: int) -> Run:
    return Run(
        lines=lines,
        upload_seconds=0.1,
        validate_seconds=0.1,
        run_seconds=seconds - 0.4,
        finalize_seconds=0.1,
        download_seconds=0.1,
        seconds=seconds,
        cpu_seconds=cpu,
        client_cpu_seconds=0.1,
        rss_idle_bytes=100 * MIB,
        rss_peak_bytes=rss_mib * MIB,
        processes=2,
    )


def test_the_figures_above_compare_the_largest_size_with_ten_thousand_lines() -> None:
    arms = {
        10_000: scale.run_figures([a_run(10_000, seconds=2, cpu=1, rss_mib=200)]),
        1_000_000: scale.run_figures([a_run(1_000_000, seconds=100, cpu=110, rss_mib=240)]),
    }
    figures = scale.headline(arms)
    assert figures["lines_per_s"].value == 10_000
    assert figures["rss_mib_million"].value == 240
    assert figures["rss_growth_mib_10k_to_million"] == Figure(40, "MiB", 1)
    assert figures["cpu_per_line_million_vs_10k"].value == pytest.approx(1.1)


def test_sizes_end_with_the_largest_that_was_asked_for() -> None:
    assert scale.sizes_up_to(1_000) == [1_000]
    assert scale.sizes_up_to(30_000) == [1_000, 10_000, 30_000]
    assert scale.sizes_up_to(1_000_000) == list(scale.SIZES)


def test_an_engine_or_an_input_of_ones_own_is_refused() -> None:
    with pytest.raises(CouldNotMeasure, match="of its own"):
        scale.measure(Options("scale", "", model="org/model", extra={"lines_max": 1_000}), print)


def test_a_thousand_lines_go_through_a_real_server(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert scale.main(["--quick", "--lines-max", "1000", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert set(document["figures"]) == {"lines_per_s", "rss_mib_1k", "finalize_s", "cpu_s_per_1000_lines"}
    (arm,) = document["arms"]
    assert arm["name"] == "1,000 lines"
    assert arm["figures"]["lines_per_s"]["value"] > 0
    assert arm["figures"]["rss_peak_mib"]["value"] > arm["figures"]["rss_idle_mib"]["value"] > 10
