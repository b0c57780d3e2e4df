"""One part of an upload on its way from a multipart body into the store."""

from __future__ import annotations

from fastapi import Request

from server.bodies import content_length
from server.context import Api
from server.errors import ApiError, invalid
from server.multipart import Event, PartBegin, PartData
from server.openai.uploading import form_parser, read_form, reading
from store.blobs import StoredBlob
from store.uploads import Upload

DATA = "data"
PART_DOC = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [DATA],
                "properties": {DATA: {"type": "string", "format": "binary"}},
            }
        }
    },
}


async def receive_part(request: Request, api: Api) -> StoredBlob:
    """Durable under its key; no row knows it yet. Whatever ends it early leaves nothing behind."""
    form = _PartForm(api)
    parser = form_parser(request, DATA, "curl -F data=@part")
    settings = api.settings
    body_bytes_max = settings.part_bytes_max + settings.form_parts_max * settings.form_field_bytes_max
    declared = content_length(request) or 0
    if declared > body_bytes_max:
        raise _too_large(api)
    await api.store.disk.room_for_upload(declared)
    async with reading(form):
        await read_form(request, parser, form, body_bytes_max, _too_large(api))
        return await form.finish()


class _PartForm:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._name = ""
        self._parts = 0
        self._bytes = 0
        self._upload: Upload | None = None

    async def take(self, event: Event) -> None:
        if isinstance(event, PartBegin):
            await self._begin(event.name)
        elif isinstance(event, PartData) and self._name == DATA:
            await self._data(event.data)

    async def finish(self) -> StoredBlob:
        if self._upload is None:
            raise ApiError(400, "Missing required parameter: 'data'.", param=DATA, code="missing_required_parameter")
        if self._bytes == 0:
            raise invalid(DATA, "the part is empty.", code="empty_part")
        stored = await self._upload.finish()
        self._upload = None
        return stored

    async def abort(self) -> None:
        upload, self._upload = self._upload, None
        if upload is not None:
            await upload.abort()

    async def _begin(self, name: str) -> None:
        self._name = name
        self._parts += 1
        if self._parts > self._api.settings.form_parts_max:
            limit = self._api.settings.form_parts_max
            raise ApiError(400, f"The form has more than {limit} parts (form_parts_max).", code="too_many_parts")
        if name == DATA:
            if self._upload is not None:
                raise invalid(DATA, "the form holds it more than once.", code="duplicate_parameter")
            self._upload = await self._api.store.uploads.begin(indexed=False)

    async def _data(self, data: bytes) -> None:
        assert self._upload is not None
        self._bytes += len(data)
        if self._bytes > self._api.settings.part_bytes_max:
            raise _too_large(self._api)
        await self._upload.write(data)


def _too_large(api: Api) -> ApiError:
    limit = api.settings.part_bytes_max
    return ApiError(
        413,
        f"The part is larger than the limit of {limit} bytes (part_bytes_max): cut the file into smaller parts.",
        param=DATA,
        code="part_too_large",
    )
