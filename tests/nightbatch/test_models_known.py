"""What is known of models before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai.types import Model

from engine.protocol import GENERATE_ENDPOINTS as GENERATING
from engine.protocol import POOLING_ENDPOINTS as POOLING
from nightbatch.config.sections import Config
from nightbatch.inspection.served import Served
from nightbatch.models_known import of_config, of_names, of_server


def configured(**config: Any) -> Served:
    return of_config(Config.model_validate(config), "nightbatch.toml")


def test_the_embedded_models_are_known_with_their_aliases() -> None:
    served = configured(aliases={"gpt-4o-mini": "smollm2-135m-instruct"})
    assert set(served.by_id) == {"smollm2-135m-instruct", "all-minilm-l6-v2"}
    for name in ("gpt-4o-mini", "SmolLM2-135M-Instruct", "smollm2-135m-instruct"):
        assert served.resolve(name) == served.by_id["smollm2-135m-instruct"]
    assert served.resolve("gpt-4o") is None
    assert served.pinned(["gpt-4o-mini", "gpt-4o"]).keys() == {"gpt-4o-mini"}


@pytest.mark.parametrize(
    ("options", "context"),
    [
        ({}, None),
        ({"engine_args": {"max_model_len": 4096}}, 4096),
        ({"engine_args": {"max-model-len": "4k"}}, 4000),
        ({"engine_flags": ["--dtype", "auto", "--max-model-len", "4K"]}, 4096),
        ({"engine_flags": ["--max_model_len=1.5k"]}, 1500),
        ({"engine_flags": ["--max-model-len", "auto"]}, None),
        ({"engine_flags": ["--max-model-len"]}, None),
    ],
)
def test_the_context_is_what_vllm_is_told(options: dict[str, Any], context: int | None) -> None:
    model = {"id": "org/model-that-is-nowhere", **options}
    assert configured(models=[model]).by_id["org/model-that-is-nowhere"].context_tokens_max == context


def test_of_upstreams_that_list_their_own_models_nothing_is_known() -> None:
    served = configured(models=[{"engine": "remote", "upstreams": ["http://gpu1:8000/v1"]}])
    assert served.models is None
    assert "--url" in served.origin
    named = configured(models=[{"engine": "remote", "id": "m", "upstreams": ["http://gpu1:8000/v1"]}])
    assert named.by_id["m"].endpoints == GENERATING | POOLING


def test_a_simulated_model_has_the_context_of_its_profile() -> None:
    served = configured(models=[{"engine": "simulated", "id": "s", "profile": "gpu-8b", "kind": "pooling"}])
    assert served.by_id["s"].context_tokens_max == 131_072
    assert served.by_id["s"].endpoints == POOLING


def test_a_folder_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "max_position_embeddings": 512}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    served = of_names([str(tmp_path)])
    assert served.by_id[str(tmp_path)].endpoints == POOLING
    assert served.by_id[str(tmp_path)].context_tokens_max == 512
    assert served.sources == {str(tmp_path): str(tmp_path)}


def test_a_server_says_what_it_serves_and_a_plain_one_says_less() -> None:
    ours = Model.model_validate(
        {
            "id": "all-minilm-l6-v2",
            "object": "model",
            "created": 1,
            "owned_by": "nightbatch",
            "kind": "pooling",
            "endpoints": ["/v1/embeddings"],
            "max_model_len": 256,
        }
    )
    theirs = Model(id="plain", object="model", created=1, owned_by="someone")
    served = of_server([ours, theirs], "http://gpu1:8000")
    assert served.by_id["all-minilm-l6-v2"].endpoints == {"/v1/embeddings"}
    assert served.by_id["all-minilm-l6-v2"].context_tokens_max == 256
    assert served.by_id["plain"].endpoints == GENERATING | POOLING
    assert served.sources == {"all-minilm-l6-v2": "all-minilm-l6-v2"}
