"""Which fields of a body reach the engine, by endpoint, and why the others do not.

The engine is vLLM 0.32; what is stripped is stripped before every engine. A test holds the tables to vLLM's own request
classes and to OpenAI's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from engine.bodies import STRIPPED_FIELDS
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RERANK, RESPONSES, SCORE

STRIPPED: Mapping[str, str] = {
    "priority": "it would let a line jump the queue",
    "request_id": "it would collide with another request and take its answer",
    "session_id": "it would tie requests of different clients together",
    "vllm_xargs": "it reaches into the engine's plugins",
    "kv_transfer_params": "it reads other requests' KV cache",
    "ec_transfer_params": "it reads other requests' encoder cache",
    "cache_salt": "it would defeat the prefix cache that batches live on",
    "stream": "a batch answers each line as a whole",
    "stream_options": "a batch answers each line as a whole",
    "prompt_logprobs": "it would add a row of the vocabulary to the result for every token of the prompt",
    "return_token_ids": "it would swell the result",
    "return_tokens_as_token_ids": "the answer would no longer be text",
    "return_prompt_text": "it would repeat the prompt in the result",
    "enable_response_messages": "it would repeat the prompt and the answer token by token in the result",
}
"""Why each of `engine.bodies.STRIPPED_FIELDS` is taken out of a body."""

_NO_STORE = "nothing is kept of an answer but the result file"
_NO_TIERS = "there are no tiers within a batch; the batch's window decides"
_OWN_CACHE = "the engine's prefix cache works by itself"
_NO_MODERATION = "there is no moderation"

IGNORED: Mapping[str, Mapping[str, str]] = {
    CHAT_COMPLETIONS: {
        "audio": "answers are text",
        "function_call": "the old form of tool_choice is not read: use tool_choice",
        "functions": "the old form of tools is not read: use tools",
        "metadata": _NO_STORE,
        "modalities": "answers are text",
        "moderation": _NO_MODERATION,
        "prediction": "predicted outputs are not used",
        "prompt_cache_key": _OWN_CACHE,
        "prompt_cache_options": _OWN_CACHE,
        "prompt_cache_retention": _OWN_CACHE,
        "safety_identifier": "nobody watches for it",
        "service_tier": _NO_TIERS,
        "store": _NO_STORE,
        "user": "nobody watches for it",
        "verbosity": "the model is not told: say it in the prompt",
        "web_search_options": "there is no web search",
    },
    COMPLETIONS: {"best_of": "only n counts", "user": "nobody watches for it"},
    RESPONSES: {
        "access_programs": "there are none",
        "background_options": "a batch is in the background already",
        "context_management": "the input is taken as it is",
        "image": "answers are text",
        "metadata": _NO_STORE,
        "moderation": _NO_MODERATION,
        "prompt_cache_key": _OWN_CACHE,
        "prompt_cache_options": _OWN_CACHE,
        "prompt_cache_retention": _OWN_CACHE,
        "safety_identifier": "nobody watches for it",
        "service_tier": _NO_TIERS,
        "store": _NO_STORE,
        "user": "nobody watches for it",
    },
    EMBEDDINGS: {"user": "nobody watches for it"},
    SCORE: {"user": "nobody watches for it"},
    RERANK: {"user": "nobody watches for it"},
}
"""Fields that OpenAI acts on and the engine passes over."""

_BOOKKEEPING = (
    "metadata moderation prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier "
    "store user"
)
HARMLESS = frozenset(_BOOKKEEPING.split())
"""Of these, the ones that do not shape an answer."""

REFUSED: Mapping[str, Mapping[str, str]] = {
    CHAT_COMPLETIONS: {
        "chat_template": "a request may not bring its own chat template (--trust-request-chat-template)"
    },
    COMPLETIONS: {},
    RESPONSES: {
        "background": "a batch is in the background already",
        "conversation": "nothing is kept between requests: put the whole conversation into input",
        "previous_response_id": "nothing is kept between requests: put the whole conversation into input",
        "prompt": "stored prompt templates are not known here: put the text into input",
    },
    EMBEDDINGS: {"chat_template": "a request may not bring its own chat template (--trust-request-chat-template)"},
    SCORE: {},
    RERANK: {},
}
"""Fields that the engine answers 400 to, when they are set to anything but null or false."""

_SAMPLING = (
    "frequency_penalty presence_penalty repetition_penalty repetition_detection length_penalty temperature top_p top_k "
    "min_p min_tokens seed n stop stop_token_ids bad_words allowed_token_ids logit_bias logprobs logprob_token_ids "
    "ignore_eos include_stop_str_in_output skip_special_tokens spaces_between_special_tokens structured_outputs "
    "thinking_token_budget truncate_prompt_tokens truncation_side use_beam_search watermarking add_special_tokens echo "
    "mm_payload return_mm_kwargs return_token_offsets routed_experts_prompt_start stream_interval"
)
_POOLING = "truncate_prompt_tokens truncation_side use_activation padding mm_processor_kwargs"
_SCORING = "chat_template_kwargs instruction max_tokens_per_doc max_tokens_per_query"

_READ: Mapping[str, str] = {
    CHAT_COMPLETIONS: f"{_SAMPLING} messages model add_generation_prompt chat_template_kwargs continue_final_message "
    "documents include_reasoning max_completion_tokens max_tokens media_io_kwargs mm_processor_kwargs "
    "parallel_tool_calls reasoning_effort response_format tool_choice tools top_logprobs",
    COMPLETIONS: f"{_SAMPLING} prompt prompt_embeds model max_tokens response_format suffix",
    RESPONSES: "input model instructions max_output_tokens max_tool_calls parallel_tool_calls reasoning temperature "
    "top_p top_k min_p top_logprobs text tool_choice tools truncation include include_reasoning seed stop "
    "stop_token_ids frequency_penalty presence_penalty repetition_penalty logit_bias ignore_eos "
    "include_stop_str_in_output skip_special_tokens structured_outputs chat_template_kwargs "
    "media_io_kwargs mm_payload mm_processor_kwargs previous_input_messages return_mm_kwargs watermarking",
    EMBEDDINGS: f"{_POOLING} input messages model dimensions encoding_format embed_dtype endianness add_special_tokens "
    "add_generation_prompt chat_template_kwargs continue_final_message media_io_kwargs",
    SCORE: f"{_POOLING} {_SCORING} model text_1 text_2 data_1 data_2 queries items documents",
    RERANK: f"{_POOLING} {_SCORING} model query documents top_n",
}
"""Fields that the engine acts on."""


@dataclass(frozen=True, slots=True)
class FieldVerdict:
    """`code` is a kind (`kinds.KINDS`); `why` completes "the field x ..."."""

    code: str
    why: str


@cache
def read_fields(endpoint: str) -> frozenset[str]:
    """What the engine acts on; empty for an endpoint that is not known."""
    return frozenset(_READ.get(endpoint, "").split())


def verdict_of(endpoint: str, field: str) -> FieldVerdict | None:
    """What becomes of a field; None when the engine acts on it, or the endpoint is not one of ours."""
    read = read_fields(endpoint)
    if not read:
        return None
    if field in STRIPPED_FIELDS:
        return FieldVerdict("field_stripped", f"is taken out: {STRIPPED[field]}")
    if field in read:
        return None
    if (why := REFUSED[endpoint].get(field)) is not None:
        return FieldVerdict("field_refused", f"is refused: {why}")
    if (why := IGNORED[endpoint].get(field)) is not None:
        code = "field_without_effect" if field in HARMLESS else "field_ignored"
        return FieldVerdict(code, f"changes nothing: {why}")
    close = get_close_matches(field, read, n=1, cutoff=0.75)
    hint = f"; did you mean {close[0]}?" if close else ""
    return FieldVerdict("field_unknown", f"is not known{hint}")
