"""engine_args: passed on as they are, refused by name."""

from __future__ import annotations

import pytest

from engine.vllm.arguments import UnknownArgument, adapters, check_ours, names_in, settle, to_flags, value_of

KNOWN = {
    "--max-model-len": True,
    "--enforce-eager": False,
    "--no-enforce-eager": False,
    "--enable-auto-tool-choice": False,
    "--compilation-config": True,
    "-O": True,
    "--tensor-parallel-size": True,
    "-tp": True,
}


def test_a_mapping_becomes_the_command_line_of_vllm() -> None:
    flags = to_flags(
        {
            "max_model_len": 4096,
            "enforce_eager": False,
            "enable-auto-tool-choice": True,
            "compilation_config": {"mode": 3},
            "lora_modules": ["a=/a", {"name": "b"}],
            "seed": None,
        }
    )
    assert flags == [
        *("--max-model-len", "4096", "--no-enforce-eager", "--enable-auto-tool-choice"),
        *("--compilation-config", '{"mode": 3}', "--lora-modules", "a=/a", '{"name": "b"}'),
    ]


def test_flags_stay_as_they_were_typed() -> None:
    typed = ["--max-model-len=4096", "-tp", "2"]
    assert to_flags(typed) == typed
    assert settle(typed, KNOWN) == typed


def test_an_unknown_argument_is_refused_with_its_neighbours() -> None:
    with pytest.raises(UnknownArgument, match="no engine argument `max_modle_len`; did you mean `max_model_len`"):
        settle(to_flags({"max_modle_len": 1}), KNOWN)


def test_what_is_not_the_engines_business_is_refused_with_the_reason() -> None:
    with pytest.raises(UnknownArgument, match="`port` cannot be set: nightbatch is the API server"):
        check_ours(["--port", "8000"])
    with pytest.raises(UnknownArgument, match="`scheduling-policy` cannot be set"):
        check_ours({"scheduling_policy": "fcfs"})
    check_ours({"max_num_seqs": 4})


def test_false_for_a_plain_switch_leaves_it_out() -> None:
    assert settle(["--no-enable-auto-tool-choice", "--no-enforce-eager"], KNOWN) == ["--no-enforce-eager"]


def test_negative_numbers_and_nested_json_names_are_no_unknown_flags() -> None:
    assert settle(["--max-model-len", "-1", "--compilation-config.mode", "3", "-O3"], KNOWN)


def test_names_and_values_are_found_in_either_spelling() -> None:
    flags = ["--max_model_len=5", "--no-enforce-eager", "--tensor-parallel-size", "2"]
    assert {"max-model-len", "enforce-eager", "tensor-parallel-size"} <= names_in(flags)
    assert value_of(flags, "max-model-len") == "5"
    assert value_of(flags, "tensor-parallel-size") == "2"
    assert value_of(flags, "seed") is None


def test_adapters_are_models_of_their_own() -> None:
    flags = ["--lora-modules", "sql=/adapters/sql", '{"name": "chat", "path": "/c"}', "--enable-lora"]
    assert adapters(flags) == ["sql", "chat"]
    assert adapters(["--lora-modules=one=/1"]) == ["one"]
