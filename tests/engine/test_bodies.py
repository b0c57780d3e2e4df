"""Bodies on their way in, answers on their way out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.answers import shape_answer, shape_error
from engine.bodies import STRIPPED_FIELDS, InvalidBody, prepare_body
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, EngineUnavailable, Usage

VLLM_CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "ok",
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "tool_calls": [],
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": "vllm-0.32.0-abc",
    "usage": {
        "prompt_tokens": 12,
        "total_tokens": 13,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 8, "multimodal_tokens": None},
    },
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "kv_transfer_params": None,
}


def test_the_model_is_replaced_and_the_rest_stays_byte_for_byte() -> None:
    body = b'{"model":"alias","temperature":1.50,"messages":[{"role" : "user","content":"\\u00e9"}]}'
    prepared = prepare_body(body, model="real", endpoint=CHAT_COMPLETIONS)
    assert prepared == b'{"model":"real","temperature":1.50,"messages":[{"role" : "user","content":"\\u00e9"}]}'


def test_priority_is_ours_to_set() -> None:
    prepared = json.loads(prepare_body(b'{"priority":-5}', model="m", endpoint=CHAT_COMPLETIONS, priority=10))
    assert prepared == {"model": "m", "priority": 10}


def test_private_fields_do_not_reach_an_engine() -> None:
    body = json.dumps(dict.fromkeys(STRIPPED_FIELDS, 1) | {"messages": []}).encode()
    assert json.loads(prepare_body(body, model="m", endpoint=CHAT_COMPLETIONS)) == {"messages": [], "model": "m"}


def test_a_stream_keeps_the_clients_choice_of_usage_only() -> None:
    body = b'{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
    prepared = json.loads(prepare_body(body, model="m", endpoint=CHAT_COMPLETIONS, stream=True))
    assert prepared == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"a":', b"null", b'"text"', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody, match="not a JSON object"):
        prepare_body(body, model="m", endpoint=CHAT_COMPLETIONS)


def test_vllms_nulls_go_and_openais_stay() -> None:
    result = shape_answer(CHAT_COMPLETIONS, json.dumps(VLLM_CHAT, indent=2).encode())
    assert json.loads(result.body) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ok", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "system_fingerprint": "vllm-0.32.0-abc",
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 1,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    assert b"\n" not in result.body
    assert result.usage == Usage(12, 8, 1)


def test_tool_calls_and_logprobs_survive() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    logprobs = {"content": [{"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": logprobs}
    shaped = json.loads(shape_answer(CHAT_COMPLETIONS, json.dumps({"choices": [choice]}).encode()).body)
    assert shaped["choices"][0]["message"] == {**message, "refusal": None}
    assert shaped["choices"][0]["logprobs"] == logprobs


@pytest.mark.parametrize("finish_reason", ["abort", None])
@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, COMPLETIONS])
def test_one_aborted_choice_makes_the_whole_answer_unavailable(endpoint: str, finish_reason: str | None) -> None:
    whole = {"index": 0, "text": "a", "finish_reason": "stop"}
    broken = {"index": 1, "text": "b", "finish_reason": finish_reason}
    with pytest.raises(EngineUnavailable, match="abort") as raised:
        shape_answer(endpoint, json.dumps({"choices": [whole, broken]}).encode())
    assert not raised.value.died


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"choices":[]}', b'{"choices":3}', b"{}"])
def test_an_answer_that_cannot_be_read_is_no_answer(body: bytes) -> None:
    with pytest.raises(EngineUnavailable):
        shape_answer(CHAT_COMPLETIONS, body)


def test_an_embedding_answer_is_passed_on_with_openais_usage() -> None:
    usage = {"prompt_tokens": 3, "total_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": None}
    data = [{"index": 0, "object": "embedding", "embedding": [0.25, -1e-7]}]
    body = json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()
    result = shape_answer(EMBEDDINGS, body)
    assert json.loads(result.body) == {
        "object": "list",
        "data": data,
        "model": "m",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert result.usage == Usage(prompt_tokens=3)


def test_a_rerank_usage_of_total_tokens_only_is_understood() -> None:
    result = shape_answer(RERANK, b'{"id":"r","results":[],"usage":{"total_tokens":7}}')
    assert result.usage == Usage(prompt_tokens=7)


@pytest.mark.parametrize(
    ("status_code", "body", "code", "param"),
    [
        (
            400,
            {"error": {"message": "This model's maximum context length is 8 tokens.", "type": "x", "code": 400}},
            "context_length_exceeded",
            "messages",
        ),
        (400, {"object": "error", "message": "bad value", "type": "BadRequestError", "code": 400}, None, None),
        (404, {"error": {"message": "The model `x` does not exist.", "code": 404}}, "model_not_found", "model"),
        (400, {"error": {"message": "no", "param": "tools", "code": "invalid_tools"}}, "invalid_tools", "tools"),
        (401, {"error": "Unauthorized"}, None, None),
        (422, {"detail": [{"loc": ["body", "x"], "msg": "wrong"}]}, None, None),
        (404, {"detail": "Not Found"}, None, None),
    ],
)
def test_every_form_of_error_becomes_openais(
    status_code: int, body: object, code: str | None, param: str | None
) -> None:
    result = shape_error(status_code, json.dumps(body).encode(), CHAT_COMPLETIONS)
    error = json.loads(result.body)["error"]
    assert result.status_code == status_code
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert error["message"]


@given(status_code=st.integers(400, 599), body=st.binary(max_size=200))
def test_no_error_body_is_too_strange(status_code: int, body: bytes) -> None:
    result = shape_error(status_code, body, COMPLETIONS)
    error = json.loads(result.body)["error"]
    assert error["message"]
    assert error["type"] == ("server_error" if status_code >= 500 else "invalid_request_error")


VLLM_RESPONSE = {
    "id": "resp_1",
    "created_at": 1,
    "incomplete_details": None,
    "instructions": None,
    "model": "m",
    "object": "response",
    "output": [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}],
    "parallel_tool_calls": True,
    "status": "completed",
    "kv_transfer_params": None,
    "input_messages": [{"role": "user"}],
    "usage": {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 8, "input_tokens_per_turn": []},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1, "tool_output_tokens": 0},
        "total_tokens": 15,
    },
}


def test_a_response_has_openais_shape_and_its_usage() -> None:
    result = shape_answer(RESPONSES, json.dumps(VLLM_RESPONSE).encode())
    shaped = json.loads(result.body)
    assert result.usage == Usage(12, 8, 3)
    assert shaped["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 15,
    }
    assert {name for name, value in shaped.items() if value is None} == {
        "error", "incomplete_details", "instructions", "metadata",
    }  # fmt: skip
    assert "input_messages" not in shaped


@pytest.mark.parametrize("status", ["cancelled", "failed", "in_progress", "queued", None])
def test_a_response_that_was_broken_off_is_no_answer(status: str | None) -> None:
    with pytest.raises(EngineUnavailable, match="aborted"):
        shape_answer(RESPONSES, json.dumps({**VLLM_RESPONSE, "status": status}).encode())


def test_a_response_that_reached_its_limit_is_an_answer() -> None:
    body = {**VLLM_RESPONSE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert json.loads(shape_answer(RESPONSES, json.dumps(body).encode()).body)["status"] == "incomplete"


@pytest.mark.parametrize(
    ("field", "value"), [("background", True), ("previous_response_id", "resp_0"), ("conversation", {"id": "c"})]
)
def test_what_needs_a_memory_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidBody, match=f"Invalid '{field}'") as refused:
        prepare_body(json.dumps({"input": "x", field: value}).encode(), model="m", endpoint=RESPONSES)
    assert refused.value.param == field


def test_a_response_is_never_stored() -> None:
    body = b'{"input":"x","store":true,"background":false,"previous_response_id":null}'
    assert json.loads(prepare_body(body, model="m", endpoint=RESPONSES))["store"] is False


@pytest.mark.parametrize("format_", ["bytes", "bytes_only", 7])
def test_an_embedding_that_is_no_json_is_refused(format_: object) -> None:
    """It could stand in no result line, and would be asked for again and again."""
    body = json.dumps({"input": "x", "encoding_format": format_}).encode()
    with pytest.raises(InvalidBody, match="'float' or 'base64'") as refused:
        prepare_body(body, model="m", endpoint=EMBEDDINGS)
    assert refused.value.param == "encoding_format"
