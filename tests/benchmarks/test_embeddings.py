from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import embedding_texts, embeddings, embeddings_arms, process_cpu
from benchmarks.embeddings import Measured
from benchmarks.embeddings_arms import SHAPES, Plan, Run, check_alike, read_vectors
from benchmarks.form import CouldNotMeasure, Options

VECTOR = (0.5, -0.25, 1.0)


def run(seconds: float, *, waited: float | None = None, tokens: int = 700, vector: Sequence[float] = VECTOR) -> Run:
    return Run(seconds, tokens, [vector], waited, {} if waited is None else {"front": seconds / 2})


def plan(texts: list[str], **changes: object) -> Plan:
    values: dict[str, object] = {"model": "/srv/models/small", "flags": (), "device": "cpu", "cores": (0, 1)}
    return Plan(texts, **{**values, **changes})  # type: ignore[arg-type]


def test_no_text_is_asked_twice() -> None:
    texts = embedding_texts.short_texts(20_000)
    assert len(set(texts)) == len(texts) == 20_000
    assert max(map(len, texts)) < 1_200


def test_more_texts_than_there_are_cannot_be_measured() -> None:
    with pytest.raises(CouldNotMeasure, match="no more than"):
        embedding_texts.short_texts(10**8)


def test_texts_of_a_file_go_round(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    path.write_text('{"body": {"input": "a"}}\n{"body": {"input": ["b", "c"]}}\n')
    assert embedding_texts.texts_of(path, 5) == ["a", "b", "c", "a", "b"]
    path.write_text('{"body": {"messages": []}}\n')
    with pytest.raises(CouldNotMeasure, match=r"line 1 of given\.jsonl is no embeddings request"):
        embedding_texts.texts_of(path, 1)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_vectors_that_are_compared_are_found_in_every_shape(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    texts = [f"text {number}" for number in range(40)]
    path = tmp_path / "input.jsonl"
    embedding_texts.write_lines(path, texts, model="m", inputs=shape.inputs, fields=shape.fields)
    results = [answer(json.loads(line)["body"]) for line in path.read_bytes().splitlines()]
    shown = plan(texts).shown()
    assert len(shown) == len(set(shown)) == embeddings_arms.SHOWN
    assert read_vectors(results, shown, shape.inputs) == [[float(number), 0.5] for number in shown]


def answer(body: dict[str, object]) -> bytes:
    """A result line whose vectors hold the numbers of the texts."""
    given = body["input"]
    numbers = [float(str(text).split()[-1]) for text in (given if isinstance(given, list) else [given])]
    vectors: list[object] = [[number, 0.5] for number in numbers]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(struct.pack("<2f", number, 0.5)).decode() for number in numbers]
    data = [{"index": no, "embedding": vector} for no, vector in enumerate(vectors)]
    return json.dumps({"response": {"status_code": 200, "body": {"data": data}}}).encode()


def test_ratios_are_formed_round_by_round_for_each_shape() -> None:
    found = embeddings.headline(
        {
            "ours": Measured(100, {}, [run(10.0, waited=20.0), run(20.0, waited=25.0)]),
            "ours_arrays": Measured(100, {}, [run(5.0, waited=10.0), run(5.0, waited=10.0)]),
            "llm_embed": Measured(100, {}, [run(9.0), run(18.0)]),
        }
    )
    assert found["ratio_vs_llm_embed"].value == pytest.approx(0.9)
    assert found["ratio_upload_to_downloaded"].value == pytest.approx((9 / 20 + 18 / 25) / 2)
    assert found["ratio_vs_llm_embed_arrays"].value == pytest.approx((9 / 5 + 18 / 5) / 2)


def test_an_arm_shows_what_its_parts_used_for_a_text() -> None:
    figures = Measured(100, {}, [run(10.0, waited=12.0), run(20.0, waited=22.0)]).figures()
    assert figures["cpu_ms_per_text_front"].value == pytest.approx(75.0)
    assert figures["upload_to_downloaded_s"].value == 17.0
    assert "upload_to_downloaded_s" not in Measured(100, {}, [run(10.0)]).figures()


def test_other_vectors_or_other_tokens_are_no_measurement() -> None:
    check_alike("ours", run(1.0, vector=[0.501, -0.25, 1.0]), run(1.0))
    with pytest.raises(CouldNotMeasure, match="likeness"):
        check_alike("ours", run(1.0, vector=[0.5, 0.25, 1.0]), run(1.0))
    with pytest.raises(CouldNotMeasure, match="likeness"):
        check_alike("ours", run(1.0, vector=[0.0, 0.0, 0.0]), run(1.0))
    with pytest.raises(CouldNotMeasure, match="700"):
        check_alike("ours", run(1.0, tokens=699), run(1.0))


def test_every_arm_states_the_same_flags_and_no_folder() -> None:
    arms = embeddings_arms.arms(plan(["a"] * 16, flags=embeddings_arms.CPU_FLAGS))
    assert set(arms) == {*SHAPES, "llm_embed"}
    assert len({arm.facts["engine_flags"] for arm in arms.values()}) == 1
    assert "--max-num-seqs 256" in str(arms["ours"].facts["engine_flags"])
    assert {arm.facts["model"] for arm in arms.values()} == {"small"}


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("", ["ours", "ours_arrays", "llm_embed"]),
        ("ours", ["ours", "llm_embed"]),
        ("ours_base64", ["ours", "ours_base64", "llm_embed"]),
    ],
)
def test_ours_and_the_baseline_are_in_every_choice_of_arms(asked: str, names: list[str]) -> None:
    assert embeddings.chosen(asked, [*SHAPES, "llm_embed"]) == names


def test_an_unknown_arm_and_an_upstream_are_refused_with_a_sentence() -> None:
    with pytest.raises(CouldNotMeasure, match="no arm theirs"):
        embeddings.chosen("theirs", [*SHAPES])
    with pytest.raises(CouldNotMeasure, match="--model"):
        Plan.of(Options("embeddings", "", upstream="http://x/v1"), ["a"])


def test_cpu_is_told_by_part_of_the_server() -> None:
    code = "import time, sys\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nsys.stdin.read()"
    before = process_cpu.cpu_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code, process_cpu.HOST_MODULE], stdin=subprocess.PIPE) as child:
        while process_cpu.used(before, process_cpu.cpu_seconds(os.getpid()))["front"] < 0.15:
            assert child.poll() is None
        child.communicate()
    assert process_cpu.used({"front": 5.0}, {"front": 1.0}) == {"front": 0.0}
