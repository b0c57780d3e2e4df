"""What every engine must do. Import TESTS and run each against a harness; each leaves the engine ready."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine.protocol import (
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RERANK,
    RESPONSES,
    SCORE,
    EngineOverloaded,
    EngineResult,
    EngineStartError,
    EngineState,
    EngineUnavailable,
    StreamRejected,
)
from tests.engine.conformance.harness import EngineUnderTest

Test = Callable[[EngineUnderTest], Awaitable[None]]
TESTS: list[Test] = []

LABELS = ["card_arrival", "card_linking", "exchange_rate"]
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": LABELS}},
    "required": ["label"],
    "additionalProperties": False,
}


def conformance(test: Test) -> Test:
    TESTS.append(test)
    return test


def body_of(result: EngineResult, status_code: int = 200) -> Any:
    assert result.status_code == status_code, result.body
    assert b"\n" not in result.body
    return json.loads(result.body)


def error_of(result: EngineResult, status_code: int = 400) -> Any:
    error = body_of(result, status_code)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"] is None or not error["code"].isdigit()
    return error


@conformance
async def a_chat_answer_has_openais_shape(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.chat())
    answer = body_of(result)
    assert answer["object"] == "chat.completion"
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    assert choice["message"]["refusal"] is None
    assert choice["logprobs"] is None
    assert choice["finish_reason"] in {"stop", "length"}
    assert not {"stop_reason", "token_ids", "prompt_logprobs", "kv_transfer_params"} & (answer.keys() | choice.keys())
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == result.usage.cached_tokens
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
    )
    assert 0 < usage["completion_tokens"] <= 8


@conformance
async def max_tokens_ends_an_answer_with_length(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.chat("Count to a thousand.", max_tokens=5, ignore_eos=True))
    answer = body_of(result)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


@conformance
async def several_choices_come_back_in_order(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.chat(n=3, temperature=1))
    assert [choice["index"] for choice in body_of(result)["choices"]] == [0, 1, 2]


@conformance
async def a_seed_repeats_an_answer_at_any_temperature(under_test: EngineUnderTest) -> None:
    answers = []
    for _ in range(2):
        result = await under_test.engine.generate(under_test.chat("Name a city.", seed=7, temperature=1, max_tokens=4))
        answers.append(body_of(result)["choices"][0]["message"]["content"])
    assert answers[0] == answers[1]


@conformance
async def completions_take_one_prompt_or_many(under_test: EngineUnderTest) -> None:
    prompts = ["Once upon a time", "The end"]
    result = await under_test.engine.generate(
        under_test.request(COMPLETIONS, {"prompt": prompts, "max_tokens": 4, "temperature": 0})
    )
    answer = body_of(result)
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(isinstance(choice["text"], str) for choice in answer["choices"])


@conformance
async def responses_answer_a_conversation(under_test: EngineUnderTest) -> None:
    body = {"input": "Name a river.", "instructions": "Be brief.", "max_output_tokens": 8, "temperature": 0}
    result = await under_test.engine.generate(under_test.request(RESPONSES, body))
    answer = body_of(result)
    assert (answer["object"], answer["error"]) == ("response", None)
    assert answer["status"] in {"completed", "incomplete"}
    (message,) = answer["output"]
    assert (message["type"], message["role"]) == ("message", "assistant")
    assert isinstance(message["content"][0]["text"], str)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
    )
    assert 0 < usage["output_tokens"] <= 8


@conformance
async def a_response_at_its_limit_is_incomplete(under_test: EngineUnderTest) -> None:
    body = {"input": "Count to a thousand, in words, without a stop.", "max_output_tokens": 2, "temperature": 0}
    answer = body_of(await under_test.engine.generate(under_test.request(RESPONSES, body)))
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


@conformance
async def a_response_keeps_to_a_json_schema(under_test: EngineUnderTest) -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["yes", "no"]}}, "required": ["label"]}
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    body = {"input": "Is water wet?", "text": {"format": form}, "max_output_tokens": 40, "temperature": 0}
    answer = body_of(await under_test.engine.generate(under_test.request(RESPONSES, body)))
    text = answer["output"][0]["content"][0]["text"]
    assert json.loads(text)["label"] in {"yes", "no"}


@conformance
async def a_response_that_needs_a_memory_is_rejected(under_test: EngineUnderTest) -> None:
    for field, value in (("background", True), ("previous_response_id", "resp_1")):
        refused = await under_test.engine.generate(under_test.request(RESPONSES, {"input": "x", field: value}))
        assert error_of(refused)["param"] == field


@conformance
async def an_embedding_format_that_is_no_json_is_rejected(under_test: EngineUnderTest) -> None:
    body = {"input": "x", "encoding_format": "bytes"}
    refused = await under_test.embedding_engine.generate(under_test.request(EMBEDDINGS, body))
    assert error_of(refused)["param"] == "encoding_format"


@conformance
async def embeddings_are_the_same_as_floats_and_as_base64(under_test: EngineUnderTest) -> None:
    texts = ["my card has not arrived", "what is the exchange rate"]
    floats = body_of(await under_test.embedding_engine.generate(under_test.request(EMBEDDINGS, {"input": texts})))
    packed = body_of(
        await under_test.embedding_engine.generate(
            under_test.request(EMBEDDINGS, {"input": texts, "encoding_format": "base64"})
        )
    )
    assert floats["usage"].keys() == {"prompt_tokens", "total_tokens"}
    for item, coded in zip(floats["data"], packed["data"], strict=True):
        assert item["object"] == "embedding"
        raw = base64.b64decode(coded["embedding"])
        decoded = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert len(decoded) == len(item["embedding"])
        assert max(abs(a - b) for a, b in zip(decoded, item["embedding"], strict=True)) < 1e-5


@conformance
async def scores_prefer_what_is_alike(under_test: EngineUnderTest) -> None:
    body = {"text_1": "where is my card", "text_2": ["where is my bank card", "zebras graze at dawn"]}
    answer = body_of(await under_test.embedding_engine.generate(under_test.request(SCORE, body)))
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["data"][0]["score"] > answer["data"][1]["score"]


@conformance
async def rerank_puts_the_best_document_first(under_test: EngineUnderTest) -> None:
    body = {"query": "where is my card", "documents": ["zebras graze at dawn", "where is my bank card"], "top_n": 1}
    answer = body_of(await under_test.embedding_engine.generate(under_test.request(RERANK, body)))
    assert [result["index"] for result in answer["results"]] == [1]


@conformance
async def a_json_schema_binds_the_answer(under_test: EngineUnderTest) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA, "strict": True}}
    result = await under_test.engine.generate(
        under_test.chat("Which label?", max_tokens=64, response_format=response_format)
    )
    said = json.loads(body_of(result)["choices"][0]["message"]["content"])
    assert said.keys() == {"label"}
    assert said["label"] in LABELS


@conformance
async def log_probabilities_come_with_each_token(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.chat("Say it.", logprobs=True, top_logprobs=3))
    answer = body_of(result)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for token in content:
        assert token["logprob"] <= 0
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
        assert len(token["top_logprobs"]) == 3
        assert max(rival["logprob"] for rival in token["top_logprobs"]) == pytest.approx(token["logprob"], abs=1e-3)
    error = error_of(await under_test.engine.generate(under_test.chat("Say it.", top_logprobs=3)))
    assert error["param"] == "top_logprobs"


@conformance
async def a_tool_that_must_be_called_is_called_or_refused(under_test: EngineUnderTest) -> None:
    function = {"name": "sort", "description": "Sorts a message.", "parameters": SCHEMA}
    request = under_test.chat(
        "My card has not arrived.",
        max_tokens=64,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "sort"}},
    )
    result = await under_test.engine.generate(request)
    if not under_test.calls_tools:
        assert error_of(result)["type"] == "invalid_request_error"
        return
    choice = body_of(result)["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "sort")
    assert json.loads(call["function"]["arguments"])["label"] in LABELS
    assert choice["finish_reason"] in {"tool_calls", "stop"}
    assert call["id"]


@conformance
async def fields_that_could_hurt_others_are_taken_away(under_test: EngineUnderTest) -> None:
    plain = await under_test.engine.generate(under_test.chat("Say it plainly."))
    hostile = await under_test.engine.generate(
        under_test.chat(
            "Say it plainly.", priority=-9, request_id="mine", stream=True, prompt_logprobs=5, model="somebody-else"
        )
    )
    assert body_of(hostile)["model"] == body_of(plain)["model"]
    assert "prompt_logprobs" not in body_of(hostile)


@conformance
async def a_request_without_messages_is_rejected(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.request(CHAT_COMPLETIONS, {"max_tokens": 4}))
    assert error_of(result)["type"] == "invalid_request_error"


@conformance
async def a_body_that_is_no_json_is_rejected(under_test: EngineUnderTest) -> None:
    error_of(await under_test.engine.generate(under_test.request(CHAT_COMPLETIONS, b'{"messages": [')))


@conformance
async def too_long_a_prompt_says_so_in_its_code(under_test: EngineUnderTest) -> None:
    context = next(
        model.context_tokens_max for model in under_test.engine.models() if model.id == under_test.chat_model
    )
    assert context is not None
    result = await under_test.engine.generate(under_test.chat("one two three four " * context))
    error = error_of(result)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"


@conformance
async def an_unknown_model_is_not_found(under_test: EngineUnderTest) -> None:
    result = await under_test.engine.generate(under_test.request(CHAT_COMPLETIONS, {"messages": []}, "no-such-model"))
    assert error_of(result, 404)["code"] == "model_not_found"


@conformance
async def an_endpoint_that_the_model_does_not_have_is_rejected(under_test: EngineUnderTest) -> None:
    result = await under_test.embedding_engine.generate(
        under_test.request(
            CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "hi"}]}, under_test.embedding_model
        )
    )
    assert 400 <= result.status_code < 500
    error_of(result, result.status_code)


@conformance
async def a_rejection_that_shows_late_is_still_a_rejection(under_test: EngineUnderTest) -> None:
    if under_test.late_rejection is None:
        pytest.skip("this engine rejects before it generates")
    result = await under_test.engine.generate(under_test.chat(**under_test.late_rejection))
    assert 400 <= result.status_code < 500
    error_of(result, result.status_code)
    await under_test.until_running(0)
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def sixty_four_at_once_are_all_answered(under_test: EngineUnderTest) -> None:
    requests = [under_test.chat(f"Number {number}, please.") for number in range(64)]
    results = await asyncio.gather(*(under_test.engine.generate(request) for request in requests))
    ids = {body_of(result)["id"] for result in results}
    assert len(ids) == 64
    await under_test.until_running(0)


@conformance
async def two_models_answer_side_by_side(under_test: EngineUnderTest) -> None:
    served = {model.id for engine in (under_test.engine, under_test.embedding_engine) for model in engine.models()}
    assert {under_test.chat_model, under_test.embedding_model} <= served
    chat, embedding = await asyncio.gather(
        under_test.engine.generate(under_test.chat()),
        under_test.embedding_engine.generate(under_test.request(EMBEDDINGS, {"input": "hi"})),
    )
    assert body_of(chat)["model"] != body_of(embedding)["model"]


@conformance
async def cancelling_a_request_frees_its_slot(under_test: EngineUnderTest) -> None:
    flying = [asyncio.create_task(under_test.engine.generate(under_test.long_chat(f"{n}"))) for n in range(4)]
    await under_test.until_running(4)
    for task in flying:
        task.cancel()
    outcomes = await asyncio.gather(*flying, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await under_test.until_running(0)
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def an_aborted_answer_is_no_answer(under_test: EngineUnderTest) -> None:
    if under_test.aborted is None:
        pytest.skip("no way to abort one request of this engine from outside")
    with pytest.raises(EngineUnavailable) as raised:
        await under_test.engine.generate(under_test.chat(**under_test.aborted))
    assert not raised.value.died
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def an_engine_that_is_full_says_later(under_test: EngineUnderTest) -> None:
    if under_test.overloaded is None:
        pytest.skip("this engine has no bound that a test could reach")
    with pytest.raises(EngineOverloaded) as raised:
        await under_test.engine.generate(under_test.chat(**under_test.overloaded))
    assert raised.value.retry_after_seconds > 0
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def a_stream_ends_with_done_and_says_the_same(under_test: EngineUnderTest) -> None:
    request = under_test.chat("Stream it.", stream_options={"include_usage": True})
    whole = body_of(await under_test.engine.generate(request))
    frames = [frame async for frame in under_test.engine.stream(request)]
    assert all(frame.startswith(b"data: ") and frame.endswith(b"\n\n") for frame in frames)
    assert frames[-1] == b"data: [DONE]\n\n"
    chunks = [json.loads(frame[len(b"data: ") :]) for frame in frames[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert finishes[-1] == whole["choices"][0]["finish_reason"]


@conformance
async def a_refused_stream_raises_before_its_first_frame(under_test: EngineUnderTest) -> None:
    frames = under_test.engine.stream(under_test.request(CHAT_COMPLETIONS, {"max_tokens": 4}))
    with pytest.raises(StreamRejected) as raised:
        await anext(aiter(frames))
    error_of(raised.value.result)


@conformance
async def leaving_a_stream_frees_its_slot(under_test: EngineUnderTest) -> None:
    frames = under_test.engine.stream(under_test.long_chat())
    async for _ in frames:
        break
    await frames.aclose()  # type: ignore[attr-defined]
    await under_test.until_running(0)


@conformance
async def a_death_fails_everything_in_flight_and_a_restart_heals(under_test: EngineUnderTest) -> None:
    incarnation = under_test.engine.status().incarnation
    flying = [asyncio.create_task(under_test.engine.generate(under_test.long_chat(f"{n}"))) for n in range(8)]
    await under_test.until_running(8)
    await under_test.kill()
    outcomes = await asyncio.gather(*flying, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineUnavailable] * 8
    assert all(outcome.died for outcome in outcomes if isinstance(outcome, EngineUnavailable))
    await under_test.restart()
    assert under_test.engine.status().incarnation == incarnation + 1
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def a_stop_lets_what_is_in_flight_finish_and_takes_nothing_new(under_test: EngineUnderTest) -> None:
    flying = [
        asyncio.create_task(under_test.engine.generate(under_test.chat(f"{n}", max_tokens=100, ignore_eos=True)))
        for n in range(4)
    ]
    await under_test.until_running(4)
    stopping = asyncio.create_task(under_test.engine.stop(drain_seconds=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(EngineUnavailable) as raised:
        await under_test.engine.generate(under_test.chat())
    assert not raised.value.died
    for result in await asyncio.gather(*flying):
        body_of(result)
    await stopping
    assert under_test.engine.status().state is EngineState.STOPPED
    await under_test.start()
    body_of(await under_test.engine.generate(under_test.chat()))


@conformance
async def stopping_while_it_starts_leaves_nothing_running(under_test: EngineUnderTest) -> None:
    await under_test.engine.stop()
    starting = asyncio.create_task(under_test.engine.start())
    await asyncio.sleep(0)
    await under_test.engine.stop()
    with contextlib.suppress(EngineStartError, asyncio.CancelledError):
        await starting
    assert under_test.engine.status().state is EngineState.STOPPED
    with pytest.raises(EngineUnavailable):
        await under_test.engine.generate(under_test.chat())
    await under_test.start()
    body_of(await under_test.engine.generate(under_test.chat()))
