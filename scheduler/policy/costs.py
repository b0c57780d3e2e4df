"""What a line will need of an engine's memory at its peak: predicted where its template is known, else the most it may.

A client's limit is a promise not to need more, and mostly far above what comes: by limits alone an engine runs half
empty. What was predicted too low is found out by the engine (it pushes requests out), and by `kv_share`.
"""

from __future__ import annotations

import math

from scheduler.facts.lengths import Known
from scheduler.policy.packer import Cost

PROMPT_MARGIN = 1.125
"""On what prompts of a template turned out to be, beside their estimates: single ones differ."""


def peak_cost(most: Cost, known: Known | None, *, output_limit: int) -> Cost:
    """Of a line that may need `most`, and whose sequences may each generate `output_limit` tokens (0: no limit; then
    `most` counts what is assumed, and what is known may be more)."""
    if known is None:
        return most
    scale = min(1.0, known.prompt_scale * PROMPT_MARGIN)
    saved = most.prompt_tokens - math.ceil(most.prompt_tokens * scale)
    outputs = most.tokens - most.prompt_tokens
    if known.peak_tokens is not None:
        each = min(known.peak_tokens, output_limit) if output_limit else known.peak_tokens
        outputs = min(outputs, each * most.requests) if output_limit else each * most.requests
    tokens, prefix_tokens = max(1, most.prompt_tokens - saved + outputs), math.floor(most.prefix_tokens * scale)
    # Not `replace`, which takes thrice as long: this is done for every line.
    return Cost(most.requests, tokens, most.prompt_tokens, most.prefix, prefix_tokens)
