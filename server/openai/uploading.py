"""One file on its way from a multipart body into the store, with its parts in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from server.bodies import content_length
from server.context import Api
from server.errors import ApiError, invalid, missing, shown
from server.multipart import Event, FormEvents, MalformedForm, PartBegin, PartData, boundary_of
from server.openai.expiry import check_expires_after
from server.settings import ServerSettings
from store.records import InputSummary
from store.uploads import Upload

BATCH = "batch"
PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
DEFAULT_FILENAME = "upload"

FILE = "file"
PURPOSE = "purpose"
ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"
WHOLE_EXPIRY = "expires_after"
FIELDS = frozenset({PURPOSE, ANCHOR, SECONDS, WHOLE_EXPIRY})


class Stored(Protocol):
    """What the store says of bytes that are durable."""

    @property
    def key(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def summary(self) -> InputSummary | None: ...


@dataclass(frozen=True, slots=True)
class Received:
    """A complete upload: its bytes are durable under `stored.key`, no row knows them yet."""

    purpose: str
    filename: str
    expires_after_seconds: int | None
    stored: Stored


async def receive_upload(request: Request, api: Api) -> Received:
    """Read the whole form. Whatever ends it early (a refusal, a disconnect, a full disk) leaves nothing behind."""
    form = _Form(api)
    parser = _parser(request)
    await _refuse_by_length(request, api)
    try:
        return await _read_form(request, parser, form, api.settings)
    except MalformedForm as error:
        await form.abort()
        raise ApiError(400, f"The body is not valid multipart/form-data: {error}", code="invalid_multipart") from None
    except BaseException:
        await form.abort()
        raise


async def _read_form(request: Request, parser: FormEvents, form: _Form, settings: ServerSettings) -> Received:
    received_bytes = 0
    async for chunk in request.stream():
        received_bytes += len(chunk)
        if received_bytes > _body_bytes_max(settings):
            raise _too_large(settings)
        for event in parser.feed(chunk):
            await form.take(event)
    parser.finish()
    return await form.finish()


def _parser(request: Request) -> FormEvents:
    boundary = boundary_of(request.headers.get("content-type", ""))
    if boundary is None:
        raise ApiError(
            400,
            "Missing required parameter: 'file'. Send the upload as multipart/form-data with a boundary and the parts "
            "'purpose' and 'file', for example: curl -F purpose=batch -F file=@input.jsonl.",
            param=FILE,
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
        raise _too_large(api.settings)
    await api.store.disk.room_for_upload(declared)


def _body_bytes_max(settings: ServerSettings) -> int:
    return settings.upload_bytes_max + settings.form_parts_max * settings.form_field_bytes_max


def _too_large(settings: ServerSettings) -> ApiError:
    return ApiError(
        413,
        f"The upload is larger than the server's limit of {settings.upload_bytes_max} bytes ([store] upload_mib_max).",
        param=FILE,
        code="file_too_large",
    )


class _Form:
    """Takes the parser's events; owns the store's upload until `finish` or `abort`."""

    def __init__(self, api: Api) -> None:
        self._settings = api.settings
        self._uploads = api.store.uploads
        self._upload: Upload | None = None
        self._filename = DEFAULT_FILENAME
        self._file_bytes = 0
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
        if self._upload is None:
            got = ", ".join(shown(name) for name in self._parts)
            raise ApiError(
                400,
                f"Missing required parameter: 'file'. The form's parts are: {got}.",
                param=FILE,
                code="missing_required_parameter",
            )
        expires_after_seconds = self._expires_after_seconds()
        stored: Stored = await self._upload.finish()
        self._upload = None
        return Received(purpose, self._filename, expires_after_seconds, stored)

    async def abort(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            await upload.abort()

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
        self._filename = part.filename or DEFAULT_FILENAME
        if len(self._filename) > self._settings.filename_chars_max:
            raise invalid(FILE, f"its name has more than {self._settings.filename_chars_max} characters.")
        # A purpose that comes after the file may still turn out to be `batch`: then its index must be there.
        self._upload = await self._uploads.begin(indexed=self._purpose() in (None, BATCH))

    async def _data(self, data: bytes) -> None:
        name = self._parts[-1]
        if name == FILE:
            assert self._upload is not None
            self._file_bytes += len(data)
            await self._upload.write(data)
        elif name in FIELDS:
            self._field += data
            if len(self._field) > self._settings.form_field_bytes_max:
                limit = self._settings.form_field_bytes_max
                raise invalid(name, f"longer than the server's limit of {limit} bytes (form_field_bytes_max).")

    async def _end(self) -> None:
        name = self._parts[-1]
        if name == FILE:
            if self._file_bytes == 0:
                raise invalid(FILE, f"the file {shown(self._filename)} is empty.", code="empty_file")
        elif name in FIELDS:
            self._fields[name] = _decoded(name, bytes(self._field))
            self._field.clear()
            self._purpose()  # an unknown one is refused here, before a file that follows it travels
            self._expires_after_seconds(whole=False)

    def _purpose(self) -> str | None:
        purpose = self._fields.get(PURPOSE)
        if purpose is not None and purpose not in PURPOSES:
            known = ", ".join(f"'{name}'" for name in PURPOSES)
            raise invalid(PURPOSE, f"{shown(purpose)} is not one of {known}.")
        return purpose

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
