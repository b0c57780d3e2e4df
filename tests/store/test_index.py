from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from store import index_builder
from store.duplicates import duplicates
from store.index import RECORD_DTYPE, LineIndex
from store.index_builder import IndexBuilder, IndexLimits
from store.index_records import NAMES_MAX
from store.line_blocks import Block, LineBlocks, Overlong
from store.lines import LINE_ERROR_CODES
from store.records import Damaged, InputSummary

LIMITS = IndexLimits(line_bytes_max=4096, lines_max=1000, line_errors_shown_max=100)
SECRET = b"s" * 32


def request(custom_id: str, *, model: str = "m", content: str = "hi", url: str = "/v1/chat/completions") -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(line, ensure_ascii=False).encode()


def build(
    folder: Path,
    data: bytes,
    limits: IndexLimits = LIMITS,
    *,
    steps: tuple[int, ...] = (),
    read_bytes: int = index_builder.READ_BYTES,
) -> InputSummary:
    blob = folder / "blob"
    blob.write_bytes(data)
    builder = IndexBuilder(blob, folder / "blob.index", SECRET, limits, read_bytes=read_bytes)
    try:
        for step in steps:
            builder.feed(min(step, len(data)))
        return builder.finish(len(data))
    finally:
        builder.close()


def lines_of(folder: Path) -> list[bytes]:
    index = LineIndex.open(folder / "blob.index")
    return index.read_lines(folder / "blob", range(index.count))


def test_an_index_says_what_each_line_is_and_where(tmp_path: Path) -> None:
    first, second = request("a", content="x" * 300), request("b", model="n", url="/v1/embeddings")
    summary = build(tmp_path, first + b"\n" + second + b"\n")
    index = LineIndex.open(tmp_path / "blob.index")
    assert summary == InputSummary(2, 0, ("m", "n"), ("/v1/chat/completions", "/v1/embeddings"), 2, 302)
    assert (index.count, index.models, index.urls, index.error_lines) == (2, summary.models, summary.urls, 0)
    record = index.records[1]
    assert index.models[record["model"]] == "n"
    assert index.urls[record["url"]] == "/v1/embeddings"
    assert (record["offset"], record["length"], record["line"]) == (len(first) + 1, len(second), 2)
    assert (record["prompt_bytes"], record["output_tokens"], record["sub_requests"], record["error"]) == (2, 4, 1, 0)
    assert index.records[0]["ladder"][0] != 0
    assert list(record["ladder"]) == [0, 0, 0, 0]


def test_an_empty_file_has_an_index_without_lines(tmp_path: Path) -> None:
    assert build(tmp_path, b"") == InputSummary(0, 0, (), (), 0, 0)
    assert LineIndex.open(tmp_path / "blob.index").count == 0


def test_blank_lines_are_left_out_and_line_numbers_stay_right(tmp_path: Path) -> None:
    summary = build(tmp_path, b"\n\r\n" + request("a") + b"\r\n  \t\n" + b"broken\r\n\n" + request("b"))
    index = LineIndex.open(tmp_path / "blob.index")
    assert index.records["line"].tolist() == [3, 5, 7]
    assert lines_of(tmp_path) == [request("a"), b"broken", request("b")]
    assert [(error.code, error.line) for error in summary.errors] == [("invalid_json_line", 5)]


def test_lines_opened_together_have_the_records_of_lines_opened_one_by_one(tmp_path: Path) -> None:
    lines = [request(str(number), model="mn"[number % 2], content="é" * number * 20) for number in range(60)]
    found = []
    for ending in (b"\n", b" \n"):  # a space asks for a closer look
        folder = tmp_path / str(len(ending))
        folder.mkdir()
        build(folder, ending.join(lines) + ending)
        found.append(LineIndex.open(folder / "blob.index"))
    together, one_by_one = found
    assert together.models == one_by_one.models
    for field in set(RECORD_DTYPE.names or ()) - {"offset", "length"}:
        assert together.records[field].tolist() == one_by_one.records[field].tolist()
    assert together.records["custom_id"].all()


@pytest.mark.parametrize("odd_line_no", [0, 1, 250, 398, 399])
def test_an_odd_line_changes_nothing_for_those_around_it(tmp_path: Path, odd_line_no: int) -> None:
    lines = [request(str(number), content="x" * number) for number in range(400)]
    lines[odd_line_no] = b"broken"
    summary = build(tmp_path, b"\n".join(lines))
    index = LineIndex.open(tmp_path / "blob.index")
    assert [(error.code, error.line) for error in summary.errors] == [("invalid_json_line", odd_line_no + 1)]
    assert index.records["line"].tolist() == list(range(1, 401))
    assert lines_of(tmp_path) == lines
    assert index.records["prompt_bytes"].tolist() == [0 if n == odd_line_no else n for n in range(400)]


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    (error,) = build(tmp_path, b"\xef\xbb\xbf" + request("a") + b"\n" + request("b")).errors
    assert (error.code, error.line) == ("invalid_json_line", 1)
    assert "byte order mark" in error.message


@pytest.mark.parametrize("where", [b"", b"\n", b"\n" + request("z") + b"\n"])
def test_bytes_that_are_no_utf8_are_an_error_of_their_line_wherever_they_stand(tmp_path: Path, where: bytes) -> None:
    bad = request("b", content="?").replace(b"?", b"\xff")
    summary = build(tmp_path, request("ä") + b"\n" + bad + where)
    assert [(error.code, error.line) for error in summary.errors] == [("invalid_json_line", 2)]
    assert "UTF-8" in summary.errors[0].message


def test_a_repeated_custom_id_names_the_line_that_had_it_first(tmp_path: Path) -> None:
    data = b"\n".join([b"", request("a"), request("b"), request("a", content="x"), request("a", content="y")])
    summary = build(tmp_path, data)
    assert summary.error_lines == 2
    assert [(error.code, error.line, error.param) for error in summary.errors] == [
        ("duplicate_custom_id", 4, "custom_id"),
        ("duplicate_custom_id", 5, "custom_id"),
    ]
    assert all("line 2" in error.message for error in summary.errors)


def test_equal_hashes_of_different_custom_ids_are_no_duplicates() -> None:
    ids = ["a", "b", "c", "a", "d", "c"]
    hashes = np.array([7, 9, 7, 7, 9, 7], "<u8").tobytes()
    assert sorted(duplicates(hashes, ids.__getitem__)) == [3, 5]


def test_a_line_that_is_too_long_is_let_go_and_the_next_one_is_found(tmp_path: Path) -> None:
    limits = IndexLimits(line_bytes_max=200, lines_max=10, line_errors_shown_max=10)
    fits = request("a").ljust(200)
    long_line = b"x" * (3 * index_builder.READ_BYTES)
    data = fits + b"\r\n" + long_line + b"\n" + b"y" * 201 + b"\n" + request("b") + b"\n" + long_line
    summary = build(tmp_path, data, limits)
    index = LineIndex.open(tmp_path / "blob.index")
    assert index.records["line"].tolist() == [1, 2, 3, 4, 5]
    assert index.records["length"].tolist() == [200, len(long_line), 201, len(request("b")), len(long_line)]
    assert [(error.code, error.line) for error in summary.errors] == [("line_too_long", line) for line in (2, 3, 5)]
    assert f"{len(long_line):,}" in summary.errors[0].message


def test_lines_beyond_the_limit_are_one_error(tmp_path: Path) -> None:
    limits = IndexLimits(line_bytes_max=4096, lines_max=3, line_errors_shown_max=10)
    data = b"".join(request(str(number)) + b"\n" for number in range(20))
    summary = build(tmp_path, data, limits)
    assert [(error.code, error.line) for error in summary.errors] == [("too_many_requests", 4)]
    assert (summary.lines, summary.error_lines) == (4, 1)
    exactly = build(tmp_path, data[: 3 * len(request("0")) + 3], limits)
    assert (exactly.lines, exactly.errors) == (3, ())


def test_only_so_many_errors_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    limits = IndexLimits(line_bytes_max=4096, lines_max=1000, line_errors_shown_max=5)
    summary = build(tmp_path, b"x\n" * 40, limits)
    assert (len(summary.errors), summary.error_lines) == (5, 40)
    assert len(list(LineIndex.open(tmp_path / "blob.index").iter_errors(tmp_path / "blob"))) == 40


def test_too_many_model_names_are_an_error_of_the_first_line_too_many(tmp_path: Path) -> None:
    lines = [request(str(number), model=f"m{number}") for number in range(NAMES_MAX + 2)]
    limits = IndexLimits(line_bytes_max=4096, lines_max=5000, line_errors_shown_max=10)
    summary = build(tmp_path, b"\n".join(lines), limits)
    assert len(summary.models) == NAMES_MAX
    assert [(error.code, error.line) for error in summary.errors] == [
        ("invalid_request", NAMES_MAX + 1),
        ("invalid_request", NAMES_MAX + 2),
    ]
    assert "1,000 different models" in summary.errors[0].message


def test_an_index_beside_other_bytes_than_its_own_is_damage(tmp_path: Path) -> None:
    build(tmp_path, request("a") + b"\nbroken\n")
    index = LineIndex.open(tmp_path / "blob.index")
    (tmp_path / "blob").write_bytes(request("a"))
    with pytest.raises(Damaged, match="its index was made for"):
        index.read_lines(tmp_path / "blob", [0])
    (tmp_path / "blob").unlink()
    with pytest.raises(Damaged, match="are missing"):
        list(index.iter_errors())


def test_an_index_is_read_again_after_its_memory_was_given_back(tmp_path: Path) -> None:
    build(tmp_path, request("a") + b"\n" + request("b"))
    index = LineIndex.open(tmp_path / "blob.index")
    before = index.records.tobytes()
    index.release_memory()
    assert index.records.tobytes() == before


def test_a_column_is_the_field_of_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.index._ROWS_AT_ONCE", 3)
    build(tmp_path, b"\n".join(request(str(number), content="x" * 300 * number) for number in range(8)))
    index = LineIndex.open(tmp_path / "blob.index")
    assert index.column("length").tolist() == index.records["length"].tolist()
    assert index.column("ladder", 1).tolist() == index.records["ladder"][:, 1].tolist()
    assert index.column("ladder").tolist() == index.records["ladder"].tolist()


def test_lines_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    build(tmp_path, b"\n".join(request(str(number), content="x" * 3000) for number in range(50)))
    index = LineIndex.open(tmp_path / "blob.index")
    asked = [40, 3, 4, 49, 3, 0]
    found = index.read_lines(tmp_path / "blob", asked)
    assert [json.loads(line)["custom_id"] for line in found] == [str(number) for number in asked]


LINES = st.one_of(
    st.sampled_from([b"", b"  ", b"broken", b"\xff", "ünïcödé".encode(), b"\r"]),
    st.builds(request, st.sampled_from(["a", "b", "ä\u2028"]), content=st.sampled_from(["", "é" * 40, "x" * 200])),
    st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
)


@given(
    lines=st.lists(LINES, max_size=12),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    ends=st.booleans(),
    read_bytes=st.integers(1, 700),
    steps=st.lists(st.integers(0, 2000), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_chunks_an_index_gives_back_exactly_the_lines(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    newline: bytes,
    ends: bool,
    read_bytes: int,
    steps: list[int],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = newline.join(lines) + (newline if ends else b"")
    summary = build(folder, data, steps=tuple(sorted(steps)), read_bytes=read_bytes)
    physical = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    expected = [(number, line) for number, line in enumerate(physical, 1) if line.strip(b" \t\n\r\x0b\x0c")]
    index = LineIndex.open(folder / "blob.index")
    assert index.records["line"].tolist() == [number for number, _ in expected]
    assert lines_of(folder) == [line for _, line in expected]
    assert summary.lines == len(expected)
    assert summary.error_lines == len(list(index.iter_errors(folder / "blob")))


@given(chunks=st.lists(st.text("ab\nä", max_size=12).map(str.encode)))
@example(chunks=[b"abcdefgh", b"ij\nk", b"\n"])
def test_blocks_hold_every_line_that_is_not_too_long(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    blocks = LineBlocks(5)
    pieces = [piece for chunk in chunks for piece in blocks.take(chunk)] + list(blocks.end())
    found: list[tuple[int, int]] = []
    for piece in pieces:
        if isinstance(piece, Overlong):
            assert piece.length > 5
            found.append((piece.offset, piece.length))
            continue
        assert isinstance(piece, Block)
        offset = piece.offset
        for line in piece.lines:
            assert data[offset : offset + len(line)] == line
            found.append((offset, len(line)))
            offset += len(line) + 1
    expected, offset = [], 0
    for line in data.split(b"\n"):
        expected.append((offset, len(line)))
        offset += len(line) + 1
    if expected[-1][1] == 0:
        expected.pop()
    assert found == expected


def damaged_everywhere(path: Path, whole: bytes, records: bytes) -> None:
    """Open after every truncation and a flipped bit in every byte: Damaged, each time."""
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged, match=path.name):
            LineIndex.open(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(Damaged, match=path.name):
            LineIndex.open(path)
    path.write_bytes(whole)
    assert LineIndex.open(path).records.tobytes() == records


def test_an_index_with_any_byte_lost_or_changed_is_never_used(tmp_path: Path) -> None:
    build(tmp_path, request("a") + b"\n" + request("b") + b"\n")
    path = tmp_path / "blob.index"
    damaged_everywhere(path, path.read_bytes(), LineIndex.open(path).records.tobytes())


def test_an_index_that_is_missing_or_of_another_format_says_so(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="is missing"):
        LineIndex.open(tmp_path / "none.index")
    build(tmp_path, request("a"))
    path = tmp_path / "blob.index"
    whole = bytearray(path.read_bytes())
    whole[8] = 9
    path.write_bytes(whole)
    with pytest.raises(Damaged, match="has format 9"):
        LineIndex.open(path)


def test_the_layout_of_a_record_is_fixed() -> None:
    assert RECORD_DTYPE.itemsize == 80
    assert LINE_ERROR_CODES.index("invalid_json_line") == 1
