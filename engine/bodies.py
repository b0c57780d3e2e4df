"""What is done to a request body before an engine sees it: set the model, take away what a client must not set.

The body is opened one level deep only; everything below stays the client's own bytes.
"""

from __future__ import annotations

import msgspec

from engine import responses
from engine.protocol import COMPLETIONS, EMBEDDINGS, RESPONSES

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

ELSEWHERE_STRIPPED = {
    "echo": frozenset({COMPLETIONS}),  # OpenAI's own there; in vLLM's chat it repeats a message of the prompt
}
"""Fields that only the named endpoints know as OpenAI's own; they are taken out of all other bodies."""

TEMPLATE = "chat_template"
TEMPLATE_OPTIONS = "chat_template_kwargs"

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
    kept: dict[str, object] = {name: value for name, value in fields.items() if not _stripped(name, endpoint)}
    kept["model"] = model
    kept.pop("service_tier", None)  # ours to give; vLLM refuses those that it has not heard of, others charge for them
    if priority is not None:
        kept["priority"] = priority
    if endpoint == RESPONSES:
        kept["store"] = False
    if stream:
        kept["stream"] = _TRUE
        if options is not None and wants_stream_usage(bytes(options)):
            kept["stream_options"] = {"include_usage": True}
    return _encoder.encode(kept)


def _stripped(name: str, endpoint: str) -> bool:
    return name in STRIPPED_FIELDS or (name in ELSEWHERE_STRIPPED and endpoint not in ELSEWHERE_STRIPPED[name])


def _check(fields: dict[str, msgspec.Raw], endpoint: str) -> None:
    _check_template(fields)
    if endpoint == EMBEDDINGS and bytes(fields.get("encoding_format", b"null")) not in EMBEDDING_FORMATS:
        raise InvalidBody("Invalid 'encoding_format': it is 'float' or 'base64'.", param="encoding_format")
    refused = responses.refused_field(fields) if endpoint == RESPONSES else None
    if refused is not None:
        name, why = refused
        raise InvalidBody(f"Invalid '{name}': {why}.", param=name)


def _check_template(fields: dict[str, msgspec.Raw]) -> None:
    """A template is a program: it may loop for ever in the process that answers everybody."""
    options = bytes(fields.get(TEMPLATE_OPTIONS, b"null"))
    if bytes(fields.get(TEMPLATE, b"null")) != b"null":
        where = TEMPLATE
    elif options.startswith(b"{") and TEMPLATE in open_body(options):
        where = f"{TEMPLATE_OPTIONS}.{TEMPLATE}"
    else:
        return
    raise InvalidBody(f"Invalid '{where}': templates of clients are not run; the model's own is used.", param=where)


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


def wants_stream_usage(options: bytes) -> bool:
    try:
        return msgspec.json.decode(options, type=_StreamOptions).include_usage
    except msgspec.DecodeError:
        return False
