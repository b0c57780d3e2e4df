"""`nightbatch validate` and the server give the same verdict on every line."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS
from nightbatch.inspection.bodies import BodyInspector
from nightbatch.inspection.findings import Findings
from nightbatch.inspection.kinds import KINDS
from nightbatch.inspection.served import Served, named_model
from nightbatch.inspection.verdicts import judge_lines
from scheduler.policy.validation import Problems, find_problems
from store.index import LineIndex
from store.index_builder import IndexBuilder, IndexLimits

SERVED = Served([named_model("chat", "generate"), named_model("embed", "pooling")], {"gpt-4o-mini": "chat"})
LIMITS = IndexLimits(line_bytes_max=2_000, lines_max=40, line_errors_shown_max=1000)
EXAMPLES_MAX = 3

oddities: st.SearchStrategy[Any] = st.sampled_from([None, "", 0, 1.5, True, [], {}, "x" * 600, ["a"], {"b": 1}])
ids = st.one_of(st.sampled_from(["a", "b", "c"]), st.text(max_size=5), oddities)
urls = st.one_of(st.sampled_from([CHAT_COMPLETIONS, "chat/completions", EMBEDDINGS, "/v2/x"]), oddities)
models = st.one_of(st.sampled_from(["chat", "embed", "gpt-4o-mini", "gpt-4o"]), oddities)
bodies = st.one_of(
    oddities,
    st.fixed_dictionaries(
        {},
        optional={
            "model": models,
            "messages": st.one_of(st.just([{"role": "user", "content": "hello"}]), oddities),
            "input": oddities,
            "stream": st.sampled_from([True, False, None]),
            "max_tokens": oddities,
            "n": oddities,
            "priority": st.just(1),
            "temperature": oddities,
        },
    ),
)
whole = st.builds(
    lambda name, model, url: {
        "custom_id": name,
        "method": "POST",
        "url": url,
        "body": {"model": model, "messages": [{"role": "user", "content": "hello"}]},
    },
    st.text(min_size=1, max_size=3),
    st.sampled_from(["chat", "embed", "gpt-4o-mini", "gpt-4o"]),
    st.sampled_from([CHAT_COMPLETIONS, EMBEDDINGS]),
)
partial = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": ids,
        "method": st.one_of(st.sampled_from(["POST", "post", "GET"]), oddities),
        "url": urls,
        "body": bodies,
        "more": oddities,
    },
)
lines = st.one_of(
    st.one_of(whole, partial, oddities).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from([b"", b"  ", b"{", b'{"a":1} {}', b"[" * 500, b"\xef\xbb\xbf{}", b"{" + b" " * 3000 + b"}"]),
)
files = st.lists(lines, max_size=50).flatmap(
    lambda found: st.sampled_from([b"\n".join(found), b"\r\n".join(found), b"\n".join(found) + b"\n"])
)


def indexed(folder: str, content: bytes, limits: IndexLimits = LIMITS) -> tuple[LineIndex, Path]:
    blob = Path(folder) / "in.jsonl"
    blob.write_bytes(content)
    builder = IndexBuilder(blob, blob.with_name("in.jsonl.index"), bytes(32), limits)
    builder.finish(len(content))
    builder.close()
    return LineIndex.open(blob.with_name("in.jsonl.index")), blob


def problems_of(index: LineIndex, blob: Path, endpoint: str) -> Problems:
    """As the server's intake asks."""
    records = index.records
    return find_problems(
        endpoint=endpoint,
        urls=index.urls,
        models=index.models,
        url_column=records["url"],
        model_column=records["model"],
        error_column=records["error"],
        line_column=records["line"],
        form_errors=lambda: index.iter_errors(blob),
        pinned=SERVED.pinned(index.models),
        served=SERVED.by_id,
    )


@settings(max_examples=300, deadline=None)
@given(content=files, endpoint=st.sampled_from([CHAT_COMPLETIONS, EMBEDDINGS]))
def test_every_verdict_is_the_servers_whatever_the_lines_are(content: bytes, endpoint: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index, blob = indexed(folder, content)
        problems = problems_of(index, blob, endpoint)
        theirs = list(problems.errors())
        findings = Findings(EXAMPLES_MAX)
        refused = judge_lines(index, blob, endpoint, SERVED, findings)
    counted: Counter[str] = Counter()
    for finding in findings.all():
        counted[finding.code] += finding.count
        assert len(finding.examples) == min(finding.count, EXAMPLES_MAX)
    assert counted == Counter(error.code for error in theirs)
    said = {(error.code, error.line or 0, error.message) for error in theirs}
    shown = {(finding.code, *example) for finding in findings.all() for example in finding.examples}
    assert shown <= said
    assert refused.tolist() == problems.broken.tolist()
    assert all(KINDS[error.code].refusing for error in theirs)


@settings(max_examples=300, deadline=None)
@given(content=files)
def test_no_line_however_broken_stops_the_look_into_bodies(content: bytes) -> None:
    findings = Findings()
    inspector = BodyInspector(findings)
    for number, raw in enumerate(content.split(b"\n"), start=1):
        inspector.look(raw, number)
    for finding in findings.all():
        assert finding.code in KINDS
        assert finding.count >= len(finding.examples) > 0


def test_a_file_of_nothing_but_bad_lines_is_counted_whole_and_shown_in_part(tmp_path: Path) -> None:
    body = '"body": {"model": "gpt-4o", "messages": []}}'
    good = '{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", ' + body
    content = "\n".join([*(good % number for number in range(20_000)), *["{broken"] * 30_000]).encode()
    index, blob = indexed(str(tmp_path), content, IndexLimits(2_000, 100_000, 5))
    findings = Findings(EXAMPLES_MAX)
    refused = judge_lines(index, blob, CHAT_COMPLETIONS, SERVED, findings)
    found = {finding.code: (finding.count, len(finding.examples)) for finding in findings.all()}
    assert found == {"model_not_found": (20_000, EXAMPLES_MAX), "invalid_json_line": (30_000, EXAMPLES_MAX)}
    assert refused.all()


def test_where_nobody_knows_what_is_served_no_name_is_wrong(tmp_path: Path) -> None:
    content = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "any", "input": "x"}}'
    index, blob = indexed(str(tmp_path), content)
    findings = Findings()
    judge_lines(index, blob, EMBEDDINGS, Served(None).for_names(index.models), findings)
    assert findings.all() == []
