"""What becomes of a body's fields: the table is held to what is stripped, to OpenAI's parameters and to vLLM's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import openai.types.chat.completion_create_params as chat_params
import openai.types.completion_create_params as completion_params
import openai.types.embedding_create_params as embedding_params
import openai.types.responses.response_create_params as responses_params
import pytest

from engine.bodies import STRIPPED_FIELDS
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE
from engine.responses import refused_field
from nightbatch.inspection.bodies import BodyInspector
from nightbatch.inspection.fields import HARMLESS, IGNORED, REFUSED, STRIPPED, read_fields, verdict_of
from nightbatch.inspection.findings import Findings
from nightbatch.inspection.kinds import KINDS

OPENAI: dict[str, Any] = {
    CHAT_COMPLETIONS: chat_params.CompletionCreateParamsBase,
    COMPLETIONS: completion_params.CompletionCreateParamsBase,
    EMBEDDINGS: embedding_params.EmbeddingCreateParams,
    RESPONSES: responses_params.ResponseCreateParamsBase,
}
ENDPOINTS = [CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, EMBEDDINGS, SCORE, RERANK]


def look(body: dict[str, Any], url: str = CHAT_COMPLETIONS, **beside: Any) -> dict[str, str]:
    """(kind and detail) -> message, for one line."""
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body, **beside}
    findings = Findings()
    BodyInspector(findings).look(json.dumps(line).encode(), 1)
    return {finding.title: finding.examples[0][1] for finding in findings.all()}


def test_every_stripped_field_has_a_reason() -> None:
    assert STRIPPED.keys() == STRIPPED_FIELDS


def test_what_responses_refuse_is_what_is_said_to_be_refused() -> None:
    set_fields = {field: msgspec.Raw(b"1") for field in OPENAI[RESPONSES].__annotations__}
    refused = {field for field, value in set_fields.items() if refused_field({field: value})}
    assert refused == REFUSED[RESPONSES].keys() - {"prompt"}, "vLLM itself refuses prompt"


@pytest.mark.parametrize("endpoint", OPENAI)
def test_every_parameter_of_openai_is_read_or_has_a_reason(endpoint: str) -> None:
    for field in OPENAI[endpoint].__annotations__:
        verdict = verdict_of(endpoint, field)
        assert verdict is None or verdict.code != "field_unknown", field


def test_what_is_ignored_is_what_openai_has() -> None:
    for endpoint, fields in IGNORED.items():
        if endpoint in OPENAI:
            assert fields.keys() <= OPENAI[endpoint].__annotations__.keys(), endpoint
        assert not fields.keys() & (read_fields(endpoint) | REFUSED[endpoint].keys() | STRIPPED_FIELDS)
    assert {field for fields in IGNORED.values() for field in fields} >= HARMLESS


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_every_field_of_vllms_requests_is_in_the_table_and_the_table_invents_none() -> None:
    pytest.importorskip("vllm", reason="vLLM is not installed: its request classes cannot be looked at")
    from typing import get_args

    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
    from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest

    def fields_of(kind: Any) -> set[str]:
        if hasattr(kind, "model_fields"):
            return set(kind.model_fields)
        return {name for part in get_args(kind) for name in fields_of(part)}

    requests = (
        ChatCompletionRequest,
        CompletionRequest,
        ResponsesRequest,
        EmbeddingRequest,
        ScoreRequest,
        RerankRequest,
    )
    for endpoint, kind in zip(ENDPOINTS, requests, strict=True):
        theirs = fields_of(kind)
        unknown = {name for name in theirs if (found := verdict_of(endpoint, name)) and found.code == "field_unknown"}
        assert unknown == set(), endpoint
        assert read_fields(endpoint) <= theirs, endpoint


@pytest.mark.parametrize(
    ("body", "url", "title"),
    [
        ({"max_tokens": 1, "temperature": 0, "priority": -5}, CHAT_COMPLETIONS, "field_stripped priority"),
        ({"max_tokens": 1, "temperature": 0, "max_token": 5}, CHAT_COMPLETIONS, "field_unknown max_token"),
        ({"max_tokens": 1, "temperature": 0, "functions": []}, "chat/completions", "field_ignored functions"),
        ({"max_tokens": 1, "temperature": 0, "store": True}, CHAT_COMPLETIONS, "field_without_effect store"),
        ({"max_tokens": 1, "temperature": 0, "chat_template": "x"}, CHAT_COMPLETIONS, "field_refused chat_template"),
        ({"max_tokens": None, "temperature": 0}, CHAT_COMPLETIONS, "no_output_limit"),
        ({"temperature": 0.0}, COMPLETIONS, "output_limit_default_16"),
        ({"temperature": -0.0}, RESPONSES, "no_output_limit"),
        ({"max_output_tokens": 5, "temperature": 0, "background": True}, RESPONSES, "field_refused background"),
        ({"max_tokens": 1, "temperature": 0.7}, CHAT_COMPLETIONS, "no_seed"),
        ({"max_completion_tokens": 1}, CHAT_COMPLETIONS, "no_seed"),
        ({"input": "x", "encoding_format": "bytes"}, EMBEDDINGS, "field_refused encoding_format"),
        ({"query": "x", "documents": [], "temperature": 0}, RERANK, "field_unknown temperature"),
    ],
)
def test_a_field_that_is_not_acted_on_is_named(body: dict[str, Any], url: str, title: str) -> None:
    assert list(look(body, url)) == [title]


@pytest.mark.parametrize(
    ("body", "url"),
    [
        ({"max_tokens": 1, "temperature": 0, "stream": False, "store": None, "chat_template": None}, CHAT_COMPLETIONS),
        ({"max_completion_tokens": 1, "temperature": 1, "seed": 3}, CHAT_COMPLETIONS),
        ({"max_output_tokens": 5, "temperature": 0, "background": False, "previous_response_id": None}, RESPONSES),
        ({"input": ["x"], "encoding_format": "base64", "dimensions": 8}, EMBEDDINGS),
        ({"anything": 1}, "/v1/audio/transcriptions"),
    ],
)
def test_nothing_is_said_of_a_body_in_order(body: dict[str, Any], url: str) -> None:
    assert look(body, url) == {}


def test_a_typing_error_is_met_with_the_right_name() -> None:
    assert look({"max_token": 5, "max_tokens": 1, "temperature": 0})["field_unknown max_token"].endswith(
        "did you mean max_tokens?"
    )


def test_a_key_beside_the_body_is_named() -> None:
    assert list(look({"max_tokens": 1, "temperature": 0}, note="x")) == ["line_field_unknown note"]


def test_a_file_with_endless_names_keeps_few_of_them() -> None:
    findings = Findings()
    inspector = BodyInspector(findings)
    for number in range(12_000):
        body = {"max_tokens": 1, "temperature": 0, f"odd{number}": 1}
        line = {"custom_id": "a", "method": "POST", "url": CHAT_COMPLETIONS, "body": body}
        inspector.look(json.dumps(line).encode(), number + 1)
    assert len(findings.all()) <= 201
    assert sum(finding.count for finding in findings.all()) == 12_000


def test_every_kind_of_finding_is_in_the_documents_and_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for kind in KINDS.values():
        assert f"`{kind.code}`" in text, kind.code
        assert all(sentence.strip() for sentence in (kind.meaning, kind.openai, kind.nightbatch, kind.fix))
