"""The pure parts: ranges, ids, tenants, settings, the multipart parser."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.errors import shown
from server.ids import new_batch_id, new_file_id, new_request_id
from server.multipart import FormEvents, MalformedForm, PartBegin, PartData, PartEnd, boundary_of
from server.openai.content import accepts_gzip
from server.openai.ranges import ByteRange, Unsatisfiable, parse_range
from server.settings import ServerSettings, Tier
from server.tenants import Tenants


@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 250))
def test_a_range_cuts_as_python_does(size: int, first: int, last: int) -> None:
    data = bytes(index % 251 for index in range(size))
    cases = {f"bytes={first}-{last}": slice(first, last + 1), f"bytes={first}-": slice(first, None)}
    for header, cut in cases.items():
        try:
            wanted = parse_range(header, size)
        except Unsatisfiable:
            assert data[cut] == b""
            continue
        if wanted is None:
            assert last < first
        else:
            assert data[wanted.start : wanted.stop] == data[cut]
            assert wanted.start < wanted.stop


@given(st.text(max_size=40))
def test_no_header_breaks_the_range_parser(header: str) -> None:
    try:
        wanted = parse_range(header, 10)
    except Unsatisfiable:
        return
    assert wanted is None or 0 <= wanted.start < wanted.stop <= 10


@pytest.mark.parametrize("header", [None, "", "bytes=-", "bytes=5-2", "lines=0-1", "bytes=0-1,3-4", "bytes=a-b"])
def test_a_range_that_is_none_means_everything(header: str | None) -> None:
    assert parse_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_beyond_the_end_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 10)
    assert parse_range("bytes=-99", 10) == ByteRange(0, 10)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [("gzip", True), ("gzip, deflate", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.00", False),
     ("identity", False), ("", False), ("*", False)],
)  # fmt: skip
def test_gzip_is_read_with_its_weight(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@given(st.binary(min_size=32, max_size=32))
def test_ids_look_like_openais(random: bytes) -> None:
    def token(count: int) -> bytes:
        return random[:count]

    assert re.fullmatch(r"file-[0-9A-Za-z]{22}", new_file_id(token))
    assert re.fullmatch(r"batch_[0-9a-f]{32}", new_batch_id(token))
    assert re.fullmatch(r"req_[0-9a-f]{32}", new_request_id(token))


def test_without_keys_everyone_is_the_default_tenant() -> None:
    assert Tenants().open
    assert Tenants().tenant_of(None) == Tenants().tenant_of("anything") == "default"


def test_a_key_is_known_by_its_digest() -> None:
    tenants = Tenants({hashlib.sha256(b"one").hexdigest(): "a", hashlib.sha256(b"two").hexdigest(): "b"})
    assert [tenants.tenant_of(key) for key in ("one", "two", "three", "", None, "\ud800")] == [
        "a", "b", None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("digest", ["", "short", "z" * 64])
def test_what_is_no_digest_is_refused(digest: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        Tenants({digest: "a"})


@pytest.mark.parametrize("settings", [{"tiers": {}}, {"retry_after_seconds": 300}, {"upload_bytes_max": 0}])
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ServerSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seconds"):
        Tier(0)


def test_a_clients_value_is_short_and_escaped_in_a_message() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 10_000)) < 120
    assert shown("\ud800").isascii()


BODY = (
    b'--frontier\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="na\xc3\xafve.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\nline one\r\n--front\r\nline two\r\n--frontier--\r\n"
)


@given(st.lists(st.integers(0, len(BODY)), max_size=12))
@example(list(range(len(BODY))))
@example(list(range(0, len(BODY), 2)))
def test_a_form_parses_alike_however_it_is_cut(cuts: list[int]) -> None:
    parser = FormEvents(b"frontier")
    edges = [0, *sorted(cuts), len(BODY)]
    events = [event for start, stop in itertools.pairwise(edges) for event in parser.feed(BODY[start:stop])]
    parser.finish()
    parts: list[tuple[str, str | None, bytes]] = []
    for event in events:
        match event:
            case PartBegin(name, filename):
                parts.append((name, filename, b""))
            case PartData(data):
                parts[-1] = (*parts[-1][:2], parts[-1][2] + data)
            case PartEnd():
                pass
    assert parts == [
        ("purpose", None, b"batch"),
        ("file", "na\u00efve.jsonl", b"line one\r\n--front\r\nline two"),
    ]


@given(st.binary(max_size=300))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    parser = FormEvents(b"frontier")
    with contextlib.suppress(MalformedForm):
        parser.feed(b"--frontier\r\n" + data)
        parser.finish()


def test_a_form_that_stops_short_is_not_whole() -> None:
    parser = FormEvents(b"frontier")
    parser.feed(BODY[:-10])
    with pytest.raises(MalformedForm, match=str(len(BODY) - 10)):
        parser.finish()


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_the_boundary_is_read_from_the_content_type(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary
