"""What vLLM's own request models make of the bodies that a batch request sends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.bodies import prepare_body
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES

pytestmark = [
    pytest.mark.real_engine,
    # vLLM and torch are imported here, in this process, with whatever they have to say about each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

pytest.importorskip("vllm")

BODIES: dict[str, dict[str, Any]] = {
    CHAT_COMPLETIONS: {"messages": [{"role": "user", "content": "hello"}], "stream": True, "n": 2},
    COMPLETIONS: {"prompt": "hello", "stream": True, "stream_options": {"include_usage": True}},
    RESPONSES: {"input": "hello"},
}


@pytest.mark.parametrize("endpoint", sorted(BODIES))
def test_a_batch_request_asks_for_its_answer_once_at_the_end(endpoint: str) -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.sampling_params import RequestOutputKind

    models = {CHAT_COMPLETIONS: ChatCompletionRequest, COMPLETIONS: CompletionRequest, RESPONSES: ResponsesRequest}
    body = prepare_body(json.dumps(BODIES[endpoint]).encode(), model="m", endpoint=endpoint, priority=10)
    params = models[endpoint].model_validate_json(body).to_sampling_params(16, {})
    assert params.output_kind is RequestOutputKind.FINAL_ONLY
