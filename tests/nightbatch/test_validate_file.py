"""A whole file: how its lines stand, compressed ones, contexts, and the cleaned copy."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

if sys.version_info >= (3, 14):
    from compression.zstd import compress as zstd_compress
else:
    from backports.zstd import compress as zstd_compress

from engine.protocol import CHAT_COMPLETIONS, EMBEDDINGS
from nightbatch.inspection.contexts import judge_contexts
from nightbatch.inspection.counting import Counters
from nightbatch.inspection.findings import Findings
from nightbatch.inspection.fixing import FixRules, left_out_path, write_fixed
from nightbatch.inspection.opening import InspectionError, compression_of, unpack
from nightbatch.inspection.report import for_programs, screen
from nightbatch.inspection.scanning import Framing, judge, read_lines
from nightbatch.inspection.served import Served, named_model
from nightbatch.inspection.validating import Inspection, inspect
from store.index import LineIndex
from store.index_builder import IndexBuilder, IndexLimits
from store.settings import StoreSettings

MODELS = [
    named_model("chat", "generate", context_tokens_max=1000),
    named_model("embed", "pooling", context_tokens_max=100),
]
SERVED = Served(MODELS, {}, {}, "the test")
LIMITS = IndexLimits(line_bytes_max=100_000, lines_max=1000, line_errors_shown_max=1000)
EXAMPLES = Path(__file__).parents[2] / "examples"


def line_of(custom_id: str, text: str = "hello", *, model: str = "chat", **body: Any) -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0, **body}
    line = {"custom_id": custom_id, "method": "POST", "url": CHAT_COMPLETIONS, "body": asked}
    return json.dumps({**line, "body": asked}).encode()


def indexed(path: Path, limits: IndexLimits = LIMITS) -> LineIndex:
    builder = IndexBuilder(path, path.with_name(f"{path.name}.index"), bytes(32), limits)
    builder.finish(path.stat().st_size)
    builder.close()
    return LineIndex.open(path.with_name(f"{path.name}.index"))


async def inspected(path: Path, folder: Path, **options: Any) -> Inspection:
    return await inspect(path, folder, lambda names: SERVED, settings=StoreSettings(), **options)


def found_in(
    content: bytes, folder: Path, line_bytes_max: int = 1000
) -> tuple[dict[str, int], list[tuple[int, bytes]]]:
    path = folder / "in.jsonl"
    path.write_bytes(content)
    framing, findings = Framing(), Findings()
    lines = list(read_lines(path, line_bytes_max, framing, lambda done: None))
    judge(framing, findings)
    return {finding.code: finding.count for finding in findings.all()}, lines


@pytest.mark.parametrize(
    ("content", "found", "numbers"),
    [
        (b"", {}, []),
        (b"{}\n{}\n", {}, [1, 2]),
        (b"{}\r\n{}\r\n", {"crlf": 2}, [1, 2]),
        (b"{}\n\n  \n{}", {"blank_lines": 2, "no_final_newline": 1}, [1, 4]),
        (b"\xef\xbb\xbf{}\n", {"byte_order_mark": 1}, [1]),
        (b"\xff\xfe{\x00}\x00\n\x00", {"utf16": 1, "no_final_newline": 1}, [1, 2]),
        (b"[\n{}\n]\n", {"json_array": 1}, [1, 2, 3]),
        (b"{}\n" + b"x" * 2000 + b"\n{}\n", {}, [1, 3]),
    ],
)
def test_how_the_lines_stand_is_told(content: bytes, found: dict[str, int], numbers: list[int], tmp_path: Path) -> None:
    told, lines = found_in(content, tmp_path)
    assert told == found
    assert [number for number, _ in lines] == numbers


def _same(served: Served, names: Sequence[str]) -> Served:
    return served


async def test_the_examples_have_nothing_wrong(tmp_path: Path) -> None:
    for name, model in (("banking77", "smollm2-135m-instruct"), ("embeddings", "all-minilm-l6-v2")):
        served = Served([named_model(model)], {}, {}, "the test")
        path = EXAMPLES / f"{name}.jsonl"
        found = await inspect(path, tmp_path, partial(_same, served), settings=StoreSettings())
        assert found.findings.all() == []
        assert (found.failing, found.lines > 100, list(found.models)) == (0, True, [model])


async def test_a_line_counts_once_however_much_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    good = line_of("a")
    wrong = line_of("b", model="nobody", chat_template="x").replace(b"/v1/chat", b"/v1/what")
    path.write_bytes(b"\n".join([good, wrong, line_of("c", chat_template="x"), line_of("d", max_tokens=5000)]) + b"\n")
    found = await inspected(path, tmp_path)
    assert {finding.code for finding in found.findings.all()} == {
        "invalid_url",
        "model_not_found",
        "field_refused",
        "output_limit_above_context",
        "mixed_models",
    }
    assert (found.lines, found.refused, found.failing) == (4, 1, 3)
    assert found.missing == ("nobody",)


async def test_an_empty_file_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n\n")
    found = await inspected(path, tmp_path)
    assert [finding.code for finding in found.findings.all()] == ["empty_file", "blank_lines"]


async def test_an_endpoint_without_batches_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line_of("a").replace(b"/v1/chat/completions", b"/v1/audio/speech") + b"\n")
    found = await inspect(path, tmp_path, lambda names: Served(None), settings=StoreSettings())
    assert found.failing == 1
    assert found.findings.get("endpoint_unsupported")


PLAIN = b"".join(b'{"custom_id": "%d"}\n' % number for number in range(1000))


@pytest.mark.parametrize(("compression", "packed"), [("gzip", gzip.compress(PLAIN)), ("zstd", zstd_compress(PLAIN))])
def test_compressed_files_are_told_by_their_bytes(compression: str, packed: bytes, tmp_path: Path) -> None:
    path, plain = tmp_path / "in", tmp_path / "out"
    path.write_bytes(packed)
    assert compression_of(path) == compression
    unpack(path, compression, plain, len(PLAIN), lambda done: None)
    assert plain.read_bytes() == PLAIN
    with pytest.raises(InspectionError, match="upload_mib_max"):
        unpack(path, compression, plain, len(PLAIN) - 1, lambda done: None)
    path.write_bytes(packed[:-9])
    with pytest.raises(InspectionError, match="cut off"):
        unpack(path, compression, plain, len(PLAIN), lambda done: None)
    path.write_bytes(PLAIN)
    assert compression_of(path) is None


class WordCounter:
    """A tokenizer whose tokens are words."""

    context_tokens_max = None

    def __init__(self) -> None:
        self.bodies = 0

    def count(self, endpoint: str, bodies: Sequence[bytes]) -> list[int | None]:
        self.bodies += len(bodies)
        texts = [json.loads(body).get("messages", [{}])[0].get("content") for body in bodies]
        return [len(text.split()) if isinstance(text, str) else None for text in texts]


def context_findings(
    lines: Sequence[bytes], folder: Path, counter: WordCounter | None
) -> tuple[dict[str, list[int]], int]:
    path = folder / "in.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    findings = Findings()
    counters = Counters({"chat": "words"} if counter else {}, opener=lambda source: counter)  # type: ignore[arg-type,return-value]
    refused = judge_contexts(indexed(path), path, SERVED, counters, findings)
    found = {finding.code: [line for line, _ in finding.examples] for finding in findings.all()}
    return found, int(refused.sum())


def test_prompts_are_counted_only_where_they_could_be_too_long(tmp_path: Path) -> None:
    lines = [
        line_of("short"),
        line_of("too long", "w " * 1000),
        line_of("just right", "w " * 999, max_tokens=1),
        line_of("cut", "w " * 995, max_tokens=100),
        line_of("greedy", max_tokens=1001),
    ]
    counter = WordCounter()
    found, refused = context_findings(lines, tmp_path, counter)
    assert found == {"output_limit_above_context": [5], "context_length_exceeded": [2], "output_cut_by_context": [4]}
    assert (refused, counter.bodies) == (2, 4)


def test_without_a_tokenizer_it_is_an_estimate_and_says_so(tmp_path: Path) -> None:
    found, refused = context_findings([line_of("short"), line_of("long", "word " * 1000)], tmp_path, None)
    assert (found, refused) == ({"context_length_likely": [2]}, 0)


def test_what_a_tokenizer_cannot_count_is_estimated(tmp_path: Path) -> None:
    line = json.loads(line_of("odd", "x" * 5000))
    line["body"]["messages"][0]["content"] = [{"type": "text", "text": "x" * 5000}]
    found, _ = context_findings([json.dumps(line).encode()], tmp_path, WordCounter())
    assert found == {"context_length_likely": [1]}


def test_a_line_of_many_inputs_is_not_taken_for_one_long_one(tmp_path: Path) -> None:
    def embeds(custom_id: str, inputs: list[str]) -> bytes:
        line = {
            "custom_id": custom_id,
            "method": "POST",
            "url": EMBEDDINGS,
            "body": {"model": "embed", "input": inputs},
        }
        return json.dumps(line).encode()

    found, _ = context_findings([embeds("many", ["x" * 100] * 50), embeds("long", ["x" * 500])], tmp_path, None)
    assert found == {"context_length_likely": [2]}


FIXABLE = [
    b"\xef\xbb\xbf" + line_of("bom"),
    line_of("cr") + b"\r",
    b"",
    line_of("same") + b" ",
    line_of("same", "again"),
    line_of("stripped", priority=1, stream=True, request_id="r"),
    line_of("kept", stream=False, user="me"),
    line_of("method").replace(b'"POST"', b'"post"'),
    line_of("none").replace(b'"method": "POST", ', b""),
    line_of("get").replace(b'"POST"', b'"GET"'),
    line_of("other").replace(b"/v1/chat/completions", b"/v1/embeddings"),
    line_of("model", model="gpt-4o"),
    b"{broken",
]


def fixed(folder: Path, lines: Sequence[bytes], **rules: Any) -> tuple[list[dict[str, Any]], Any, list[bytes]]:
    path, out = folder / "in.jsonl", folder / "out.jsonl"
    path.write_bytes(b"\n".join(lines))
    done = write_fixed(path, indexed(path), out, FixRules(CHAT_COMPLETIONS, **rules), LIMITS.line_bytes_max)
    rest = left_out_path(out)
    assert out.read_bytes().endswith(b"\n") or not done.kept
    assert not list(folder.glob("*.part"))
    kept = [json.loads(line) for line in out.read_bytes().splitlines()]
    return kept, done, rest.read_bytes().splitlines() if rest.exists() else []


def test_the_copy_has_what_can_be_put_right_and_the_rest_is_kept_beside_it(tmp_path: Path) -> None:
    kept, done, rest = fixed(tmp_path, FIXABLE)
    names = ["bom", "cr", "same", "stripped", "kept", "method", "none", "model"]
    assert [line["custom_id"] for line in kept] == names
    assert {line["method"] for line in kept} == {"POST"}
    assert not {"priority", "stream", "request_id"} & kept[3]["body"].keys()
    assert kept[4]["body"]["user"] == "me"
    assert kept[4]["body"]["stream"] is False
    assert rest == [FIXABLE[4], FIXABLE[9], FIXABLE[10], FIXABLE[12]]
    assert done.left_out == {"duplicate_custom_id": 1, "invalid_method": 1, "invalid_url": 1, "invalid_json_line": 1}
    assert done.done == {
        "byte order mark removed": 1,
        "CR LF made LF": 1,
        "blank line left out": 1,
        "priority removed": 1,
        "stream removed": 1,
        "request_id removed": 1,
        'method set to "POST"': 2,
        "line ending added at the end": 1,
    }
    assert (done.kept, done.changed) == (8, 4)


def test_only_on_request_are_names_changed(tmp_path: Path) -> None:
    kept, done, _ = fixed(tmp_path, FIXABLE, rename_duplicates=True, models={"gpt-4o": "chat"})
    assert [line["custom_id"] for line in kept if line["custom_id"].startswith("same")] == ["same", "same-line-5"]
    assert {line["body"]["model"] for line in kept} == {"chat"}
    assert done.done["custom_id renamed"] == 1
    assert done.done["model gpt-4o replaced by chat"] == 1


def test_a_file_in_order_is_copied_byte_for_byte(tmp_path: Path) -> None:
    source = (EXAMPLES / "banking77.jsonl").read_bytes()
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(source)
    done = write_fixed(path, indexed(path), out, FixRules(CHAT_COMPLETIONS), LIMITS.line_bytes_max)
    assert out.read_bytes() == source
    assert (done.changed, done.done, left_out_path(out).exists()) == (0, {}, False)


def test_lines_beyond_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line_of("long", "x" * 3000), *(line_of(f"n{number}") for number in range(9))]
    path.write_bytes(b"\n".join(lines) + b"\n")
    index = indexed(path, IndexLimits(2000, 5, 10))
    done = write_fixed(path, index, out, FixRules(CHAT_COMPLETIONS), 2000)
    assert done.kept == 4
    assert done.left_out == {"line_too_long": 1, "too_many_requests": 5}


async def test_the_report_of_a_file_in_which_everything_differs_fits_a_few_screens(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    odd: list[dict[str, Any]] = [{f"odd{number}": 1} for number in range(900)]
    lines = [line_of(f"n{number}", model=f"m{number}", **more) for number, more in enumerate(odd)]
    path.write_bytes(b"\n".join([*lines, b"{broken", b"", line_of("n1")]))
    found = await inspected(path, tmp_path)
    output = io.StringIO()
    Console(file=output, width=80).print(screen(found, path, explain=True))
    assert found.failing == 902
    assert len(output.getvalue().splitlines()) < 250
    assert "model_not_found (193 others)" in output.getvalue()
    assert len(json.dumps(for_programs(found, path, None, None))) < 1024 * 1024
