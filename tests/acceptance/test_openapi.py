"""schemathesis over our own OpenAPI document: no 5xx, and every answer is one that the document describes.

Each operation gets two kinds of requests: as drawn (mostly unknown ids, mostly refused), and with ids, models and files
that exist, so that what lies behind the first check is reached too. New routes join by being in the document.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode, checks
from schemathesis.schemas import BaseSchema

from tests.support.api_document import names
from tests.support.batches import chat_line, create, upload, wait_for
from tests.support.document import operations
from tests.support.process import ServerProcess

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]
every_operation = pytest.mark.parametrize(("method", "path"), operations(), ids=lambda value: value.strip("/"))
HEADERS_OF_HTTP = frozenset({"content-type", "content-length", "transfer-encoding", "date", "server", "vary"})
URL_CHARS_MAX = 32_768
EXAMPLES = settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))


ONLINE_INPUT: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/embeddings": {"input": "hello"},
    "/v1/score": {"text_1": "river", "text_2": ["hello", "there"]},
    "/v1/rerank": {"query": "river", "documents": ["hello", "there"]},
}
POOLING_PATHS = frozenset({"/v1/embeddings", "/v1/score", "/v1/rerank"})


class Known:
    """Things that exist on the server; what a request may destroy or use up is made anew each time."""

    def __init__(self, server: ServerProcess) -> None:
        self.client = server.client(max_retries=0)
        self.http = httpx2.Client(base_url=f"{server.url}/v1")
        self.file_id = upload(self.client, [chat_line("a", "a"), chat_line("b", "far too long " * 5_000)])
        self.batch_id = wait_for(self.client, create(self.client, self.file_id).id).id

    def put_into(self, case: Case) -> None:
        makers: Mapping[str, Callable[[], str]] = {
            "file_id": lambda: self._file_id(case),
            "batch_id": lambda: self._batch_id(case),
            "upload_id": self._upload_id,
            "model": lambda: "sim",
        }
        for name in case.path_parameters or {}:
            case.path_parameters[name] = makers[name]()
        if isinstance(case.body, dict):
            model = "sim-embed" if case.path in POOLING_PATHS else "sim"
            for name, value in (("model", model), ("input_file_id", self.file_id)):
                if name in case.body:
                    case.body[name] = value
            if case.path in ONLINE_INPUT:
                case.body = {**case.body, **ONLINE_INPUT[case.path]}

    def close(self) -> None:
        self.client.close()
        self.http.close()

    def _file_id(self, case: Case) -> str:
        return upload(self.client, [chat_line("a", "a")]) if case.method == "DELETE" else self.file_id

    def _batch_id(self, case: Case) -> str:
        wants_ended = case.method == "GET" or case.path.endswith("/retry")
        return self.batch_id if wants_ended else create(self.client, self.file_id).id

    def _upload_id(self) -> str:
        begun = {"bytes": 10, "filename": "a.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
        return str(self.http.post("/uploads", json=begun).raise_for_status().json()["id"])


@pytest.fixture(scope="module")
def known(two_models: ServerProcess) -> Iterator[Known]:
    known = Known(two_models)
    yield known
    known.close()


@pytest.fixture(scope="module")
def schema(two_models: ServerProcess) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{two_models.url}/openapi.json")


def check(case: Case) -> None:
    response = case.call()
    if len(response.request.url or "") > URL_CHARS_MAX:  # the HTTP parser refuses it before the application sees it
        assert response.status_code in (400, 414, 431)
        return
    case.validate_response(response, checks=CHECKS)
    assert response.headers["x-request-id"][0].startswith("req_")
    undocumented = {name.lower() for name in response.headers} - names("Headers") - HEADERS_OF_HTTP
    assert not undocumented, f"docs/api.md leaves out of the headers: {sorted(undocumented)}"
    if response.status_code >= 400 and case.path != "/readyz":
        error: dict[str, Any] = json.loads(response.content)["error"]
        assert set(error) == {"message", "type", "param", "code"}


def requests_to(operation: APIOperation, prepare: Callable[[Case], None] = lambda _: None) -> None:
    """Send requests that keep the document and requests that break it; a failure names its shortest one."""
    for mode in GenerationMode:

        @EXAMPLES
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Case) -> None:
            prepare(case)
            check(case)

        with contextlib.suppress(Unsatisfiable):  # an operation without parameters cannot be broken
            send()


@every_operation
def test_every_answer_to_a_drawn_request_is_as_documented(schema: BaseSchema, method: str, path: str) -> None:
    requests_to(schema[path][method])


@every_operation
def test_every_answer_about_what_exists_is_as_documented(
    schema: BaseSchema, known: Known, method: str, path: str
) -> None:
    requests_to(schema[path][method], known.put_into)


def test_sequences_of_requests_use_what_the_earlier_ones_made(schema: BaseSchema) -> None:
    """schemathesis finds by itself which answer holds the id that another route takes."""

    class Walk(schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Case, **_: Any) -> None:
            case.validate_response(
                response, checks=[*CHECKS, checks.use_after_free, checks.ensure_resource_availability]
            )

    Walk.run(settings=settings(EXAMPLES, max_examples=30, stateful_step_count=8))
