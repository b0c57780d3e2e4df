"""One file on its way from a multipart body into the store, with its parts in any order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from server.bodies import content_length
from server.context import Api
from server.errors import ApiError, invalid, missing, shown
from server.multipart import Event, FormEvents, MalformedForm, PartBegin, PartData, boundary_of
from server.openai import strict
from server.openai.expiry import check_expires_after
from server.openai.incoming import BATCH, FILE, Incoming, Stored
from server.settings import ServerSettings

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
DEFAULT_FILENAME = "upload"

PURPOSE = "purpose"
ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"
WHOLE_EXPIRY = "expires_after"
FIELDS = frozenset({PURPOSE, ANCHOR, SECONDS, WHOLE_EXPIRY})


@dataclass(frozen=True, slots=True)
class Received:
    """A complete upload: its bytes are durable under `stored.key`, no row knows them yet."""

    purpose: str
    filename: str
    expires_after_seconds: int | None
    stored: Stored


class Form(Protocol):
    """Takes the events of a form; `abort` leaves nothing behind of what it has taken."""

    async def take(self, event: Event) -> None: ...
    async def abort(self) -> None: ...


async def receive_upload(request: Request, api: Api) -> Received:
    """Read the whole form. Whatever ends it early (a refusal, a disconnect, a full disk) leaves nothing behind."""
    form = _Form(api)
    parser = form_parser(request, FILE, "curl -F purpose=batch -F file=@input.jsonl")
    await _refuse_by_length(request, api)
    async with reading(form):
        await read_form(request, parser, form, _body_bytes_max(api.settings), strict.too_large(None, api.settings))
        return await form.finish()


@asynccontextmanager
async def reading(form: Form) -> AsyncIterator[None]:
    """Abort the form whatever ends it early."""
    try:
        yield
    except MalformedForm as error:
        await form.abort()
        raise ApiError(400, f"The body is not valid multipart/form-data: {error}", code="invalid_multipart") from None
    except BaseException:
        await form.abort()
        raise


async def read_form(request: Request, parser: FormEvents, form: Form, bytes_max: int, too_large: ApiError) -> None:
    received_bytes = 0
    async for chunk in request.stream():
        received_bytes += len(chunk)
        if received_bytes > bytes_max:
            raise too_large
        for event in parser.feed(chunk):
            await form.take(event)
    parser.finish()


def form_parser(request: Request, param: str, example: str) -> FormEvents:
    boundary = boundary_of(request.headers.get("content-type", ""))
    if boundary is None:
        raise ApiError(
            400,
            f"Missing required parameter: '{param}'. Send it as a part of multipart/form-data with a boundary, "
            f"for example: {example}.",
            param=param,
            code="missing_required_parameter",
        )
    try:
        return FormEvents(boundary)
    except MalformedForm as error:
        raise ApiError(400, f"The body is not valid multipart/form-data: {error}", code="invalid_multipart") from None


async def _refuse_by_length(request: Request, api: Api) -> None:
    """Say no before the bytes travel, where the client declares them."""
    declared = content_length(request)
    if declared is None:
        return
    if declared > _body_bytes_max(api.settings):
        raise strict.too_large(None, api.settings)
    await api.store.disk.room_for_upload(declared)


def _body_bytes_max(settings: ServerSettings) -> int:
    return strict.bytes_max(None, settings) + settings.form_parts_max * settings.form_field_bytes_max


class _Form:
    """Takes the parser's events; owns the store's upload until `finish` or `abort`."""

    def __init__(self, api: Api) -> None:
        self._settings = api.settings
        self._api = api
        self._incoming: Incoming | None = None
        self._parts: list[str] = []
        self._fields: dict[str, str] = {}
        self._field = bytearray()

    async def take(self, event: Event) -> None:
        if isinstance(event, PartBegin):
            await self._begin(event)
        elif isinstance(event, PartData):
            await self._data(event.data)
        else:
            await self._end()

    async def finish(self) -> Received:
        purpose = self._purpose()
        if purpose is None:
            raise missing(PURPOSE)
        if self._incoming is None:
            got = ", ".join(shown(name) for name in self._parts)
            raise ApiError(
                400,
                f"Missing required parameter: 'file'. The form's parts are: {got}.",
                param=FILE,
                code="missing_required_parameter",
            )
        expires_after_seconds = self._expires_after_seconds()
        if purpose == BATCH:
            strict.check_name(self._incoming.filename, self._settings)
        incoming = self._incoming
        stored = await incoming.finish(purpose)
        self._incoming = None
        return Received(purpose, incoming.filename, expires_after_seconds, stored)

    async def abort(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            await incoming.abort()

    async def _begin(self, part: PartBegin) -> None:
        self._parts.append(part.name)
        if len(self._parts) > self._settings.form_parts_max:
            raise ApiError(
                400,
                f"The form has more than {self._settings.form_parts_max} parts (form_parts_max).",
                code="too_many_parts",
            )
        if part.name in self._parts[:-1] and (part.name == FILE or part.name in FIELDS):
            raise invalid(part.name, "the form holds it more than once.", code="duplicate_parameter")
        if part.name != FILE:
            return
        filename = part.filename or DEFAULT_FILENAME
        check_filename(FILE, filename, self._settings)
        purpose = self._purpose()
        if purpose == BATCH:
            strict.check_name(filename, self._settings)  # before the file travels, where the purpose came first
        self._incoming = Incoming(self._api, purpose=purpose, filename=filename)

    async def _data(self, data: bytes) -> None:
        name = self._parts[-1]
        if name == FILE:
            assert self._incoming is not None
            await self._incoming.write(data)
        elif name in FIELDS:
            self._field += data
            if len(self._field) > self._settings.form_field_bytes_max:
                limit = self._settings.form_field_bytes_max
                raise invalid(name, f"longer than the server's limit of {limit} bytes (form_field_bytes_max).")

    async def _end(self) -> None:
        name = self._parts[-1]
        if name in FIELDS:
            self._fields[name] = _decoded(name, bytes(self._field))
            self._field.clear()
            self._purpose()  # an unknown one is refused here, before a file that follows it travels
            self._expires_after_seconds(whole=False)

    def _purpose(self) -> str | None:
        purpose = self._fields.get(PURPOSE)
        return None if purpose is None else check_purpose(purpose)

    def _expires_after_seconds(self, *, whole: bool = True) -> int | None:
        """Checked once both fields are there; `whole` says that no more will come."""
        if WHOLE_EXPIRY in self._fields:
            raise invalid(WHOLE_EXPIRY, f"in a form it is written as two fields, '{ANCHOR}' and '{SECONDS}'.")
        anchor, seconds = self._fields.get(ANCHOR), self._fields.get(SECONDS)
        if anchor is None and seconds is None:
            return None
        if not whole and (anchor is None or seconds is None):
            return None
        return check_expires_after(anchor, _integer(seconds), names=(ANCHOR, SECONDS), settings=self._settings)


def check_filename(param: str, filename: str, settings: ServerSettings) -> None:
    if len(filename) > settings.filename_chars_max:
        raise invalid(param, f"its name has more than {settings.filename_chars_max} characters.")


def check_purpose(purpose: str) -> str:
    if purpose not in PURPOSES:
        known = ", ".join(f"'{name}'" for name in PURPOSES)
        raise invalid(PURPOSE, f"{shown(purpose)} is not one of {known}.")
    return purpose


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise invalid(name, "the value is not valid UTF-8.") from None


def _integer(value: str | None) -> int | str | None:
    """A form knows only text; what is no short decimal number stays text and is refused as such."""
    if value is not None and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    return value
