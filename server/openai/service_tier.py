"""`service_tier`: which of OpenAI's names a request may say, what they mean here, and saying it in the answer.

There are two tiers. What is not `flex` is an online request, whatever it would pay for elsewhere; `flex` is one that
runs in the batch class.
"""

from __future__ import annotations

import msgspec

from engine.protocol import EngineResult
from server.errors import invalid, shown

FIELD = "service_tier"
DEFAULT = "default"
FLEX = "flex"
KNOWN = ("auto", DEFAULT, FLEX, "scale", "priority", "fast", "ultrafast")

_DATA = b"data: "
_FRAME_END = b"\n\n"
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def tier_of(asked: str | None) -> str | None:
    """The tier that serves a request: what its answer says. None where the client said nothing of tiers."""
    if asked is None:
        return None
    if asked not in KNOWN:
        known = ", ".join(f"'{name}'" for name in KNOWN)
        raise invalid(FIELD, f"{shown(asked)} is not one of {known}.")
    return FLEX if asked == FLEX else DEFAULT


def stamped(result: EngineResult, tier: str | None) -> EngineResult:
    """The answer with the tier that served it; a refusal has none."""
    if tier is None or not result.ok:
        return result
    return EngineResult(result.status_code, _with_tier(result.body, tier), result.usage)


def stamped_frame(frame: bytes, tier: str | None) -> bytes:
    """One frame of a stream, likewise. What is no JSON object (`[DONE]`) stays as it is, and so does what an upstream
    has sent broken: that is for its client to judge."""
    if tier is None or not frame.startswith(_DATA + b"{"):
        return frame
    try:
        return _DATA + _with_tier(frame.removeprefix(_DATA).rstrip(), tier) + _FRAME_END
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frame


def _with_tier(body: bytes, tier: str) -> bytes:
    fields: dict[str, object] = dict(_decoder.decode(body))
    fields[FIELD] = tier
    return _encoder.encode(fields)
