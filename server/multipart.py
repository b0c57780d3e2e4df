"""multipart/form-data as it arrives: bytes in, events out, nothing kept.

python-multipart's own form classes spool a file to a second place first; this feeds its parser directly.
"""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header


class MalformedForm(Exception):
    """The body is no multipart/form-data; the message says where it stopped being one."""


@dataclass(frozen=True, slots=True)
class PartBegin:
    name: str
    filename: str | None


@dataclass(frozen=True, slots=True)
class PartData:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnd:
    pass


Event = PartBegin | PartData | PartEnd


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart/form-data content type, or None when it is something else."""
    kind, options = parse_options_header(content_type)
    if kind.strip() != b"multipart/form-data":
        return None
    return options.get(b"boundary") or None


class FormEvents:
    """A push parser. After the last `feed`, `finish` says whether the form was whole."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._fed = 0
        self._in_data = False
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value_data,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise MalformedForm(f"{error}.") from None

    def feed(self, data: bytes) -> list[Event]:
        if self._in_data and self._parser.index == 0 and b"\r" not in data:
            # Inside a part, no boundary begun, and none begins here without its carriage return: a search for that one
            # byte is many times faster than the parser's for the boundary, over nearly all bytes of a large file.
            self._fed += len(data)
            return [PartData(data)] if data else []
        try:
            self._parser.write(data)
        except FormParserError as error:
            offset = self._fed + max(0, getattr(error, "offset", 0))
            raise MalformedForm(f"{error} (byte {offset} of the body).") from None
        self._fed += len(data)
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        if not self._ended:
            raise MalformedForm(f"the body ends after {self._fed} bytes without its closing boundary.")

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        self._in_data = True
        _, options = parse_options_header(self._disposition)
        filename = options.get(b"filename")
        self._events.append(PartBegin(_text(options.get(b"name", b"")), None if filename is None else _text(filename)))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartData(data[start:end]))

    def _part_end(self) -> None:
        self._in_data = False
        self._events.append(PartEnd())

    def _end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    """Header bytes are UTF-8 from every client of today; what is not is old Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
