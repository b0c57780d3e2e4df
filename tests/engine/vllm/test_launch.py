"""What a host is started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.protocol import EngineStartError, ModelKind
from engine.vllm.arguments import value_of
from engine.vllm.launch import environment, flags
from engine.vllm.spec import VllmSpec

OPENMP, TCMALLOC = Path("/opt/lib/libiomp5.so"), Path("/usr/lib/libtcmalloc_minimal.so.4")


def spec(**fields: object) -> VllmSpec:
    return VllmSpec("chat", "m", "/models/m", **fields)  # type: ignore[arg-type]


def test_a_cpu_engine_starts_eager_with_small_blocks_and_explicit_memory() -> None:
    chosen = flags(spec(kv_cache_bytes=5), ModelKind.GENERATE)
    assert {"--enforce-eager", "--enable-prompt-tokens-details"} <= set(chosen)
    assert value_of(chosen, "scheduling-policy") == "priority"
    assert value_of(chosen, "block-size") == "32"
    assert value_of(chosen, "kv-cache-memory-bytes") == "5"


def test_what_the_user_says_is_not_said_again() -> None:
    chosen = flags(spec(kv_cache_bytes=5, engine_args={"block_size": 64, "enforce_eager": False}), ModelKind.GENERATE)
    assert value_of(chosen, "block-size") == "64"
    assert "--enforce-eager" not in chosen
    assert "--no-enforce-eager" in chosen


def test_the_online_first_scheduler_comes_with_its_channel_unless_another_is_asked_for() -> None:
    ours = flags(spec(online_slots=3), ModelKind.GENERATE, channel=Path("/data/engines/chat.channel"))
    assert ours[ours.index("--scheduler-cls") + 1].endswith(".OnlineFirstScheduler")
    settings = json.loads(ours[ours.index("--additional-config") + 1])
    assert settings == {"nightbatch": {"channel": "/data/engines/chat.channel", "online_slots": 3}}
    own = flags(spec(engine_args={"scheduler_cls": "mine.Scheduler"}), ModelKind.GENERATE, channel=Path("/x"))
    assert own[own.index("--scheduler-cls") + 1] == "mine.Scheduler"
    assert own.count("--scheduler-cls") == 1


def test_an_encoder_gets_no_block_size_and_a_given_kind_becomes_the_runner() -> None:
    chosen = flags(spec(kind=ModelKind.POOLING), ModelKind.POOLING)
    assert value_of(chosen, "block-size") is None
    assert value_of(chosen, "runner") == "pooling"


def test_a_card_keeps_vllms_own_defaults_within_its_share() -> None:
    chosen = flags(spec(device="cuda", kv_cache_bytes=7, device_memory_share=0.4), ModelKind.GENERATE)
    assert "--enforce-eager" not in chosen
    assert value_of(chosen, "gpu-memory-utilization") == "0.4000"
    assert value_of(chosen, "kv-cache-memory-bytes") == "7"


def test_the_environment_spawns_binds_preloads_and_reports_to_nobody(tmp_path: Path) -> None:
    found = environment(spec(cores="0-1"), tmp_path, {"HOME": "/h"}, [OPENMP, TCMALLOC], local=True)
    assert found["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert (found["VLLM_NO_USAGE_STATS"], found["DO_NOT_TRACK"], found["HF_HUB_OFFLINE"]) == ("1", "1", "1")
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"
    assert set(found["LD_PRELOAD"].split(":")) == {str(OPENMP), str(TCMALLOC)}
    assert found["NIGHTBATCH_ENGINE"] == f"{tmp_path.resolve()}:chat"
    assert found["HOME"] == "/h"


def test_a_second_openmp_is_never_preloaded(tmp_path: Path) -> None:
    found = environment(spec(), tmp_path, {"LD_PRELOAD": "/lib/libgomp.so.1"}, [OPENMP, TCMALLOC], local=True)
    assert found["LD_PRELOAD"] == f"{TCMALLOC}:/lib/libgomp.so.1"


def test_a_hub_model_and_a_local_one_with_a_hub_tokenizer_stay_online(tmp_path: Path) -> None:
    assert "HF_HUB_OFFLINE" not in environment(spec(), tmp_path, {}, [], local=False)
    tokenizer = spec(engine_args={"tokenizer": "org/t"})
    assert "HF_HUB_OFFLINE" not in environment(tokenizer, tmp_path, {}, [], local=True)


def test_a_card_is_shown_alone_and_the_models_own_variables_win(tmp_path: Path) -> None:
    chosen = spec(device="cuda", devices="1", environment={"VLLM_X": "2"})
    found = environment(chosen, tmp_path, {"VLLM_X": "1"}, [OPENMP], local=True)
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert found["VLLM_X"] == "2"
    assert "LD_PRELOAD" not in found


def test_a_variable_that_overrides_every_engines_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"VLLM_CPU_KVCACHE_SPACE is set.*kv_cache_memory_bytes"):
        environment(spec(), tmp_path, {"VLLM_CPU_KVCACHE_SPACE": "4"}, [], local=True)
