"""What `POST /uploads` and its completion may say: every check that needs no more than the body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from server.errors import invalid, missing, shown
from server.openai import strict
from server.openai.expiry import check_expires_after
from server.openai.incoming import BATCH
from server.openai.joining import MD5, PART_IDS
from server.openai.uploading import PURPOSES, check_filename, check_purpose
from server.settings import ServerSettings

EXPIRY = "expires_after"
MD5_PATTERN = re.compile(r"[0-9a-fA-F]{32}")


def _body_doc(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


CREATE_DOC = _body_doc(
    ["bytes", "filename", "mime_type", "purpose"],
    {
        "bytes": {"type": "integer", "minimum": 1},
        "filename": {"type": "string", "minLength": 1},
        "mime_type": {"type": "string"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        EXPIRY: {
            "type": "object",
            "required": ["anchor", "seconds"],
            "properties": {
                "anchor": {"type": "string", "enum": ["created_at"]},
                "seconds": {"type": "integer", "minimum": 3600, "maximum": 2592000},
            },
        },
    },
)
COMPLETE_DOC = _body_doc(
    [PART_IDS],
    {PART_IDS: {"type": "array", "items": {"type": "string"}}, MD5: {"type": "string"}},
)


@dataclass(frozen=True, slots=True)
class UploadParams:
    bytes: int
    filename: str
    mime_type: str
    purpose: str
    expires_after_seconds: int | None


def parse_upload_params(body: dict[str, Any], settings: ServerSettings) -> UploadParams:
    size = body.get("bytes")
    if size is None:
        raise missing("bytes")
    if not isinstance(size, int) or isinstance(size, bool):
        raise invalid("bytes", "expected an integer.", code="invalid_type")
    if size < 1:
        raise invalid("bytes", f"expected at least 1, but got {size}.", code="integer_below_min_value")
    filename, mime_type = _text(body, "filename"), _text(body, "mime_type")
    purpose = check_purpose(_text(body, "purpose"))
    check_filename("filename", filename, settings)
    check_filename("mime_type", mime_type, settings)
    if purpose == BATCH:
        strict.check_name(filename, settings)
    if size > strict.bytes_max(purpose, settings, in_parts=True):
        raise strict.too_large(purpose, settings, in_parts=True)
    return UploadParams(size, filename, mime_type, purpose, _expires_after_seconds(body.get(EXPIRY), settings))


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None or value == "":
        raise missing(name)
    if not isinstance(value, str):
        raise invalid(name, f"expected a string, but got {shown(value)}.", code="invalid_type")
    return value


def _expires_after_seconds(value: object, settings: ServerSettings) -> int | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(EXPIRY, "expected an object.", code="invalid_type")
    names = (f"{EXPIRY}.anchor", f"{EXPIRY}.seconds")
    return check_expires_after(value.get("anchor"), value.get("seconds"), names=names, settings=settings)


def parse_part_ids(value: object) -> list[str]:
    if value is None:
        raise missing(PART_IDS)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(PART_IDS, "expected an array of strings.", code="invalid_type")
    return value


def parse_md5(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or MD5_PATTERN.fullmatch(value) is None:
        raise invalid(MD5, "expected 32 hexadecimal digits.")
    return value
