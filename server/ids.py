"""Ids as OpenAI's look, made from a source of random bytes that is an argument."""

from __future__ import annotations

import string
from collections.abc import Callable

TokenSource = Callable[[int], bytes]
"""Returns that many random bytes (`secrets.token_bytes` in production)."""

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
FILE_ID_CHARS = 22
FILE_ID_BYTES = 20  # 160 bits folded into 62**22 (131 bits): the bias is below 2**-28
HEX_ID_BYTES = 16


def new_file_id(token: TokenSource) -> str:
    value = int.from_bytes(token(FILE_ID_BYTES), "big")
    chars = []
    for _ in range(FILE_ID_CHARS):
        value, digit = divmod(value, len(BASE62))
        chars.append(BASE62[digit])
    return "file-" + "".join(chars)


def new_batch_id(token: TokenSource) -> str:
    return "batch_" + token(HEX_ID_BYTES).hex()


def new_upload_id(token: TokenSource) -> str:
    return "upload_" + token(HEX_ID_BYTES).hex()


def new_part_id(token: TokenSource) -> str:
    return "part_" + token(HEX_ID_BYTES).hex()


def new_request_id(token: TokenSource) -> str:
    return "req_" + token(HEX_ID_BYTES).hex()
