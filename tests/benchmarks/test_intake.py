from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import examples, intake
from benchmarks.form import Options


@settings(deadline=None)
@given(st.sets(st.integers(min_value=0, max_value=200), min_size=2))
def test_the_server_has_one_core_and_the_client_all_others(cores: set[int]) -> None:
    server, client = intake.split_cores(cores)
    assert len(server) == 1
    assert server | client == cores
    assert not server & client


def test_on_a_single_core_they_share_it() -> None:
    assert intake.split_cores({3}) == (frozenset({3}), frozenset({3}))


def test_what_stands_behind_the_server_follows_the_flags() -> None:
    simulated = intake.Behind.of(Options("intake", ""))
    assert simulated.arguments == ()
    assert "time_scale = 0.0" in simulated.config
    model = intake.Behind.of(Options("intake", "", model="org/model", engine_args=("--max-num-seqs", "4")))
    assert model.arguments == ("--model", "org/model", "--", "--max-num-seqs", "4")
    assert intake.Behind.of(Options("intake", "", upstream="http://a/v1")).arguments == ("--upstream", "http://a/v1")


def test_a_file_is_taken_in_by_a_real_server_and_every_figure_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "ROUNDS_QUICK", 1)
    monkeypatch.setattr(intake, "SMALL_BATCHES_QUICK", 2)
    source = examples.find("*banking77*.jsonl")
    path = tmp_path / "report.json"
    assert intake.main(["--quick", "--input", str(source), "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert set(document["figures"]) == {"mib_per_s", "lines_per_s", "rss_growth_mib", "small_batch_overhead_s"}
    assert document["figures"]["small_batch_overhead_s"]["n"] == 2
    assert 0 < document["figures"]["small_batch_overhead_s"]["value"] < 30
    (arm,) = document["arms"]
    assert arm["facts"]["lines"] == len(examples.read_lines(source))
    assert arm["facts"]["server_cores"] == 1
    assert arm["figures"]["server_cpu_s"]["value"] > 0
    assert document["command"] == f"nightbatch bench intake --quick --input {source.name}"
