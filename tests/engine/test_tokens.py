"""Prompts counted with the tokenizers of the embedded models, against what vLLM counted for the same lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.embedded import CHAT, EMBEDDING, EmbeddedError, EmbeddedModel, prepared
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, SCORE
from engine.tokens import PromptCounter, TokenizerError, context_of, open_counter

EXAMPLES = Path(__file__).parents[2] / "examples"
RESPONSES = "/v1/responses"
HELLO = [{"role": "user", "content": "hello there"}]


def opened(model: EmbeddedModel) -> PromptCounter:
    try:
        ready = prepared(model)
    except EmbeddedError as error:
        pytest.skip(str(error))
    if ready is None:
        pytest.skip(f"{model.name} is not prepared on this machine (nightbatch prepare)")
    pytest.importorskip("transformers")
    return open_counter(model.id)


@pytest.fixture(scope="module")
def chat() -> PromptCounter:
    return opened(CHAT)


@pytest.fixture(scope="module")
def embedder() -> PromptCounter:
    return opened(EMBEDDING)


def count(counter: PromptCounter, endpoint: str, **body: Any) -> int | None:
    return counter.count(endpoint, [json.dumps(body).encode()])[0]


def example(name: str) -> list[bytes]:
    lines = (EXAMPLES / f"{name}.jsonl").read_bytes().splitlines()
    return [json.dumps(json.loads(line)["body"]).encode() for line in lines]


def test_chats_are_counted_as_vllm_counts_them(chat: PromptCounter) -> None:
    """`usage.prompt_tokens` of a run of this file on vLLM 0.32: 153 for the first line, 36,323 for all 240."""
    counts = chat.count(CHAT_COMPLETIONS, example("banking77"))
    assert (counts[0], sum(found or 0 for found in counts)) == (153, 36_323)
    assert chat.context_tokens_max == 8192


def test_texts_to_embed_are_counted_as_vllm_counts_them(embedder: PromptCounter) -> None:
    """`usage.prompt_tokens` of a run of this file on vLLM 0.32: 9 for the first line, 2,308 for all 160."""
    counts = embedder.count(EMBEDDINGS, example("embeddings"))
    assert (counts[0], sum(found or 0 for found in counts)) == (9, 2_308)
    assert embedder.context_tokens_max == 256


def test_of_several_texts_the_longest_counts(embedder: PromptCounter) -> None:
    one = count(embedder, EMBEDDINGS, input="a b c d")
    assert one is not None
    assert count(embedder, EMBEDDINGS, input=["a", "a b c d", "b"]) == one
    assert count(embedder, EMBEDDINGS, input=[[1, 2, 3], [4]]) == 3
    assert count(embedder, EMBEDDINGS, input=[1, 2]) == 2
    assert count(embedder, SCORE, text_1="a", text_2=["a b c d", "b"]) == count(
        embedder, RERANK, query="a", documents=["b", {"text": "a b c d"}]
    )


def test_a_response_is_counted_as_the_chat_that_it_is(chat: PromptCounter) -> None:
    plain = count(chat, CHAT_COMPLETIONS, messages=HELLO)
    system = [{"role": "system", "content": "be brief"}]
    assert count(chat, RESPONSES, input="hello there") == plain
    assert count(chat, RESPONSES, input=HELLO, instructions="be brief") == count(
        chat, CHAT_COMPLETIONS, messages=[*system, *HELLO]
    )
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello there"}]}]
    assert count(chat, CHAT_COMPLETIONS, messages=parts) == plain
    assert count(chat, COMPLETIONS, prompt=["hello there", "hi"]) == count(chat, COMPLETIONS, prompt="hello there")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT_COMPLETIONS, {"messages": "no list"}),
        (CHAT_COMPLETIONS, {"messages": [3]}),
        (CHAT_COMPLETIONS, {"messages": [{}]}),
        (CHAT_COMPLETIONS, {"messages": HELLO, "truncate_prompt_tokens": 5}),
        (RESPONSES, {"input": 3}),
        (COMPLETIONS, {}),
        (EMBEDDINGS, {"input": None}),
    ],
)
def test_what_has_no_prompt_is_not_counted(chat: PromptCounter, endpoint: str, body: dict[str, Any]) -> None:
    assert count(chat, endpoint, **body) is None


def test_broken_bodies_take_nothing_from_the_others(chat: PromptCounter) -> None:
    good = json.dumps({"messages": HELLO}).encode()
    alone = chat.count(CHAT_COMPLETIONS, [good])[0]
    assert chat.count(CHAT_COMPLETIONS, [b"{", good, b"[]", good]) == [None, alone, None, alone]


def test_a_source_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(TokenizerError, match="no tokenizer in"):
        open_counter(str(tmp_path))


def test_the_context_is_that_of_the_sentence_transformer_else_of_the_configuration(tmp_path: Path) -> None:
    assert context_of(None) is None
    assert context_of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    assert context_of(tmp_path) == 512
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    assert context_of(tmp_path) == 256
    (tmp_path / "sentence_bert_config.json").write_text("broken")
    assert context_of(tmp_path) == 512
