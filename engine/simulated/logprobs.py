"""Log-probabilities of a simulated answer: each token was likely, its rivals less so, and all of it a pure function of
the answer."""

from __future__ import annotations

from typing import Any

import xxhash

from engine.simulated.text import words_like
from engine.simulated.work import Output

_LIKELIEST = -0.05
_STEP = 0.75
"""How much less likely each next rival is."""


def chat_logprobs(output: Output, top: int, seed: int) -> dict[str, Any]:
    """As OpenAI's chat shows them: `top` alternatives of each token, the chosen one first."""
    content = []
    for position, piece in enumerate(output.pieces):
        digest = xxhash.xxh3_64_intdigest(piece.encode(), seed=seed + position)
        chosen = round(_LIKELIEST - (digest % 1_000) / 5_000, 4)
        rivals = words_like(digest, top - 1, unlike=piece)
        alternatives = [_entry(piece, chosen)] if top else []
        alternatives += [
            _entry(rival, round(chosen - _STEP * number, 4)) for number, rival in enumerate(rivals, start=2)
        ]
        content.append({**_entry(piece, chosen), "top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
