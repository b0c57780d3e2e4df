"""What is done to a request body before an engine sees it: set the model, take away what a client must not set.

The body is opened one level deep only; everything below stays the client's own bytes.
"""

from __future__ import annotations

import msgspec

from engine import responses
from engine.protocol import EMBEDDINGS, RESPONSES

STRIPPED_FIELDS = frozenset(
    {
        "priority",  # jumps the queue
        "request_id",  # collides with another request and takes its answer
        "session_id",
        "vllm_xargs",  # reaches into plugins
        "kv_transfer_params",  # reads other requests' KV blocks
        "ec_transfer_params",
        "cache_salt",  # defeats the prefix cache
        "stream",
        "stream_options",
        "prompt_logprobs",  # one row of the vocabulary per prompt token
        "return_token_ids",
        "return_tokens_as_token_ids",
        "return_prompt_text",
        "enable_response_messages",  # the prompt and the answer once more, token by token
    }
)
"""Engine-private fields that could hurt others or swell a result; `stream` is the caller's to set."""

_body_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()
_TRUE = msgspec.Raw(b"true")


EMBEDDING_FORMATS = (b'"float"', b'"base64"', b"null")
"""vLLM also knows `bytes` and `bytes_only`, whose answers are no JSON and could stand in no result line."""


class InvalidBody(ValueError):
    """The body is not a JSON object, or a field of it cannot be served; the message is for the client."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def open_body(body: bytes) -> dict[str, msgspec.Raw]:
    """The top level of a body, its values still bytes."""
    try:
        return _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody(f"The request body is not a JSON object: {error}") from None


def prepare_body(body: bytes, *, model: str, endpoint: str, priority: int | None = None, stream: bool = False) -> bytes:
    """The body that an engine gets. `priority` None leaves the field out (not every server knows it).

    With `stream`, `stream_options.include_usage` stays as the client chose; its other options are dropped.
    Raises InvalidBody.
    """
    fields = open_body(body)
    _check(fields, endpoint)
    options = fields.get("stream_options")
    kept: dict[str, object] = {name: value for name, value in fields.items() if name not in STRIPPED_FIELDS}
    kept["model"] = model
    if priority is not None:
        kept["priority"] = priority
    if endpoint == RESPONSES:
        kept["store"] = False
    if stream:
        kept["stream"] = _TRUE
        if options is not None and wants_stream_usage(bytes(options)):
            kept["stream_options"] = {"include_usage": True}
    return _encoder.encode(kept)


def _check(fields: dict[str, msgspec.Raw], endpoint: str) -> None:
    if endpoint == EMBEDDINGS and bytes(fields.get("encoding_format", b"null")) not in EMBEDDING_FORMATS:
        raise InvalidBody("Invalid 'encoding_format': it is 'float' or 'base64'.", param="encoding_format")
    refused = responses.refused_field(fields) if endpoint == RESPONSES else None
    if refused is not None:
        name, why = refused
        raise InvalidBody(f"Invalid '{name}': {why}.", param=name)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


def wants_stream_usage(options: bytes) -> bool:
    try:
        return msgspec.json.decode(options, type=_StreamOptions).include_usage
    except msgspec.DecodeError:
        return False
