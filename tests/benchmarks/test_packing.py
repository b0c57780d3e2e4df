from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import packing, packing_arms, packing_inputs, stragglers
from benchmarks.engine_clock import Window
from benchmarks.form import CouldNotMeasure, Options
from benchmarks.packing_arms import ARMS, FILE_ORDER, PACKED, RUN_BATCH, Measured, alternate, speedup
from benchmarks.throughput_arms import Run
from nightbatch.config import load
from store.lines import check_line
from store.records import LineError


def prompts_of(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["body"]["messages"][0]["content"] for line in lines]


def test_few_shot_questions_are_the_same_rows_in_the_same_shuffled_order_each_time() -> None:
    lines = packing_inputs.few_shot_lines(rows_per_task=3, max_tokens=16)
    assert lines == packing_inputs.few_shot_lines(rows_per_task=3, max_tokens=16)
    assert len(lines) == 27 * 3
    assert len({json.loads(line)["custom_id"] for line in lines}) == len(lines)
    starts = [prompt[:300] for prompt in prompts_of(lines)]
    neighbours = sum(one == other for one, other in pairwise(starts))
    assert neighbours < 10 < len(starts) - len(set(starts))


def test_no_two_distinct_questions_begin_alike_and_there_are_only_so_many() -> None:
    prompts = prompts_of(packing_inputs.distinct_lines(count=200, max_tokens=64))
    assert len({prompt[:64] for prompt in prompts}) >= 199
    with pytest.raises(CouldNotMeasure, match="there are"):
        packing_inputs.distinct_lines(count=10_000, max_tokens=64)


@given(st.integers(0, 40), st.integers(1, 6))
def test_a_split_loses_no_line_and_its_parts_are_of_nearly_one_size(lines: int, parts: int) -> None:
    made = packing_inputs.split([b"%d" % no for no in range(lines)], parts)
    assert sorted(line for part in made for line in part) == sorted(b"%d" % no for no in range(lines))
    assert max(map(len, made)) - min(map(len, made)) <= 1


def test_answers_are_mostly_short_and_some_fifty_times_as_long() -> None:
    lengths = packing_inputs.heavy_tailed_lengths(300, seed=0)
    assert lengths == packing_inputs.heavy_tailed_lengths(300, seed=0)
    assert lengths != packing_inputs.heavy_tailed_lengths(300, seed=1)
    assert (min(lengths), max(lengths)) == (10, 512)
    assert sorted(lengths)[150] < 30
    asked = [json.loads(line)["body"]["max_tokens"] for line in packing_inputs.uneven_lines(300, seed=0)]
    assert asked == lengths


@pytest.mark.parametrize(
    "line",
    [
        packing_inputs.few_shot_lines(rows_per_task=1, max_tokens=16)[0],
        packing_inputs.distinct_lines(count=1, max_tokens=64)[0],
        packing_inputs.uneven_lines(1, seed=0)[0],
    ],
)
def test_every_input_is_a_batch_line_once_it_names_a_model(line: bytes) -> None:
    assert not isinstance(check_line(line.replace(b'"model": ""', b'"model": "m"'), line=1), LineError)


@pytest.mark.parametrize("arm", [FILE_ORDER, PACKED])
@pytest.mark.parametrize("keys", [["one"], ["one", "two", "three"]])
def test_the_servers_of_the_arms_differ_in_packing_alone(arm: str, keys: list[str], tmp_path: Path) -> None:
    path = tmp_path / "nightbatch.toml"
    path.write_text(packing_arms.config(packing_arms.PACKING[arm], keys))
    settings = load(path)
    assert settings.scheduler.packing == packing_arms.PACKING[arm]
    assert [tenant.name for tenant in settings.tenants] == (keys if len(keys) > 1 else [])


def test_the_cache_has_the_size_of_the_case_unless_a_person_gave_one() -> None:
    ours = packing_arms.engine_flags((), device="cpu", kv_bytes=77)
    assert ours[-2:] == ("--kv-cache-memory-bytes", "77")
    assert "--enforce-eager" in ours
    assert "--enforce-eager" not in packing_arms.engine_flags((), device="cuda", kv_bytes=77)
    given = ("--max-num-seqs", "8", "--kv-cache-memory-bytes=5")
    assert packing_arms.engine_flags(given, device="cpu", kv_bytes=77) == given


def window(seconds: float) -> Window:
    return Window(seconds, requests=10, prompt_tokens=1_000, cached_tokens=250, output_tokens=100)


def test_arms_alternate_and_every_other_round_runs_backwards() -> None:
    ran: list[tuple[str, int]] = []

    def run_one(arm: str, round_no: int) -> Run:
        ran.append((arm, round_no))
        return Run(window(10.0 if arm == PACKED else 25.0), 12.0 if arm == PACKED else None)

    said: list[str] = []
    measured = alternate(ARMS, 2, run_one, said.append, what="bbh")
    assert ran == [(RUN_BATCH, 0), (FILE_ORDER, 0), (PACKED, 0), (PACKED, 1), (FILE_ORDER, 1), (RUN_BATCH, 1)]
    assert "25% of the prompts" in said[0]
    figures = packing.headline("bbh", measured)
    assert {name: figure.value for name, figure in figures.items()} == {
        "bbh_vs_run_batch": 2.5,
        "bbh_vs_file_order": 2.5,
    }
    assert measured[PACKED].figures()["hit_rate"].value == 0.25
    assert measured[PACKED].figures()["read_tokens"].value == 750
    assert measured[PACKED].figures()["create_to_completed_s"].value == 12.0
    assert "create_to_completed_s" not in measured[RUN_BATCH].figures()


def test_an_arm_that_did_not_run_gives_no_ratio() -> None:
    assert speedup(Measured([Run(window(1.0))]), Measured()) is None
    assert packing.headline("bbh", {RUN_BATCH: Measured([Run(window(1.0))])}) == {}


def test_cases_and_arms_are_chosen_by_name_in_their_own_order() -> None:
    assert packing_arms.chosen("gsm8k, bbh", tuple(packing.CASES), "case") == ["bbh", "gsm8k"]
    with pytest.raises(CouldNotMeasure, match="no case nonsense; there are bbh"):
        packing_arms.chosen("bbh,nonsense", tuple(packing.CASES), "case")


def test_an_upstream_or_an_input_of_ones_own_is_refused_with_the_reason() -> None:
    for module in (packing, stragglers):
        with pytest.raises(CouldNotMeasure, match="no --upstream"):
            module.measure(Options(module.__name__, "", upstream="http://gpu1:8000/v1"), print)


def test_the_files_of_each_case_hold_what_the_case_says() -> None:
    lines = {name: [len(file) for file in case.files(2)] for name, case in packing.CASES.items()}
    assert lines == {"bbh": [54], "bbh_128": [54], "bbh_roomy": [54], "tenants": [14, 14, 13, 13], "gsm8k": [200]}
