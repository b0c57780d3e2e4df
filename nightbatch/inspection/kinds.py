"""Every kind of thing that can be found in a batch input, and what is to be said about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from store.lines import LINE_ERROR_CODES


class Level(StrEnum):
    """ERROR: the line is not answered. WARN: it is, but perhaps not as meant. INFO: worth knowing."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Kind:
    """`refusing` says that one such line makes the server refuse the whole batch (unless `on_invalid_line` is
    `report`); other errors come back as a line of the error file."""

    code: str
    level: Level
    meaning: str
    openai: str
    nightbatch: str
    fix: str
    refusing: bool = False


_REFUSED = "the batch fails before anything runs, with all such lines named; with on_invalid_line=report only they fail"


def _refusing(code: str, meaning: str, openai: str, fix: str, nightbatch: str = _REFUSED) -> Kind:
    return Kind(code, Level.ERROR, meaning, openai, nightbatch, fix, refusing=True)


_ALL = (
    _refusing(
        "invalid_json_line",
        "The line is not one JSON value in UTF-8.",
        "fails the batch with the same code",
        "Write each request with a JSON library, on one line. --fix leaves such lines out and keeps them in a file.",
    ),
    _refusing(
        "missing_required_parameter",
        "A key that every line needs is not there: custom_id, method, url, body, or model in the body.",
        "fails the batch with the same code",
        'Add the key. --fix adds a missing "method", which can only be "POST".',
    ),
    _refusing(
        "invalid_method", 'The method is not "POST".', "fails the batch", 'Write "POST"; --fix does it for "post".'
    ),
    _refusing(
        "invalid_request",
        "A key has a value that a batch line cannot have, such as a body that is no object, or stream: true.",
        "fails the batch",
        "The message names the key. --fix removes stream: true.",
    ),
    _refusing(
        "line_too_long",
        "The line has more bytes than the server takes.",
        "has no limit for a line, 200 MB for a file",
        "Raise line_mib_max in [store], or send images by URL instead of inside the line.",
    ),
    _refusing(
        "too_many_requests",
        "The file has more lines than the server takes.",
        "takes 50,000 lines",
        "Raise lines_max in [store], or split the file: split -l 1000000 FILE.",
    ),
    _refusing(
        "duplicate_custom_id",
        "An earlier line has the same custom_id, so their results could not be told apart.",
        "fails the batch with the same code",
        "Give each line an id of its own. --fix leaves the later ones out; --rename-duplicates keeps them, renamed.",
    ),
    _refusing(
        "invalid_url",
        "The url is another endpoint than the batch's; all lines of a batch have the same.",
        "fails the batch",
        "Make one file for each endpoint. --fix keeps the lines of one endpoint and puts the others into a file.",
    ),
    _refusing(
        "model_not_found",
        "The server serves no model of this name, or the model does not serve this endpoint.",
        "fails the batch, or answers 404 for the line",
        "Add the line shown under [aliases] to nightbatch.toml, or --fix with --model-map OLD=NEW.",
    ),
    _refusing(
        "endpoint_unsupported",
        "No batch can be made for the endpoint that the lines name.",
        "answers 400 when the batch is created",
        "See docs/api.md for the endpoints; a server's own are in `nightbatch models`.",
        "answers 400 when the batch is created",
    ),
    _refusing(
        "empty_file", "There is not one request in the file.", "fails the batch with the same code", "Add requests."
    ),
    Kind(
        "byte_order_mark",
        Level.ERROR,
        "The file begins with a UTF-8 byte order mark, as some Windows programs write it. It is not JSON.",
        "refuses line 1",
        "refuses line 1 (the invalid_json_line beside this)",
        "--fix removes it.",
    ),
    Kind(
        "utf16",
        Level.ERROR,
        "The file is UTF-16, as PowerShell writes with > . Batch inputs are UTF-8.",
        "refuses every line",
        "refuses every line",
        "Convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW.",
    ),
    Kind(
        "json_array",
        Level.ERROR,
        "The file is one JSON array. A batch input is JSON Lines: one object a line, no brackets around them.",
        "refuses every line",
        "refuses every line",
        "Convert it: jq -c '.[]' FILE > NEW.",
    ),
    Kind(
        "context_length_exceeded",
        Level.ERROR,
        "The prompt, counted with the model's own tokenizer, leaves no room for an answer in the model's context.",
        "answers 400 for the line",
        "answers 400 for the line, in the error file",
        "Shorten the prompt, or serve the model with a longer --max-model-len.",
    ),
    Kind(
        "context_length_likely",
        Level.WARN,
        "The prompt may be longer than the context. This is an estimate from its bytes: no tokenizer was at hand.",
        "answers 400 for the line, if so",
        "answers 400 for the line, if so",
        "Give --tokenizer with the model's folder or Hugging Face id to count instead of estimating.",
    ),
    Kind(
        "output_limit_above_context",
        Level.ERROR,
        "The line asks for more output tokens than the whole context has.",
        "answers 400 for the line",
        "answers 400 for the line, in the error file",
        "Lower max_tokens (max_completion_tokens, max_output_tokens).",
    ),
    Kind(
        "output_cut_by_context",
        Level.INFO,
        "Prompt and output limit together are more than the context: the answer ends where the context does.",
        "answers 400 for the line",
        "runs it; the answer may end early with finish_reason length",
        "Lower the output limit if the answers must be whole.",
    ),
    Kind(
        "no_output_limit",
        Level.WARN,
        "No max_tokens. A model that does not stop by itself writes on until its context is full.",
        "uses the model's own limit",
        "lets the engine's default count: all that the prompt leaves of the context (the runaway)",
        "Set max_tokens a little above the longest answer you want.",
    ),
    Kind(
        "output_limit_default_16",
        Level.WARN,
        "/v1/completions without max_tokens: the default is 16 tokens, which cuts most answers.",
        "generates 16 tokens",
        "generates 16 tokens",
        "Set max_tokens.",
    ),
    Kind(
        "field_refused",
        Level.ERROR,
        "The engine answers 400 to this field or value.",
        "depends on the field",
        "answers 400 for the line, in the error file",
        "Take the field out; the message says why.",
    ),
    Kind(
        "field_stripped",
        Level.WARN,
        "A field of the engine's own that could hurt other requests. It is taken out before the engine sees it.",
        "does not know the field: 400",
        "runs the line as if the field were not there",
        "Nothing needs to be done; --fix removes it.",
    ),
    Kind(
        "field_ignored",
        Level.WARN,
        "A field that shapes OpenAI's answer and that vLLM passes over.",
        "acts on it",
        "runs the line as if the field were not there: the answer may not be what you expect",
        "The message says what to use instead, if there is anything.",
    ),
    Kind(
        "field_without_effect",
        Level.INFO,
        "A field for OpenAI's own bookkeeping (who asked, what is stored, which tier). It does not shape the answer.",
        "acts on it",
        "runs the line; the field changes nothing",
        "Nothing needs to be done.",
    ),
    Kind(
        "field_unknown",
        Level.WARN,
        "Neither OpenAI nor vLLM has a field of this name: often a typing error.",
        "answers 400 for the line",
        "runs the line; the field changes nothing",
        "Put the name right, or take it out.",
    ),
    Kind(
        "line_field_unknown",
        Level.INFO,
        "A key beside custom_id, method, url and body. It belongs to no request.",
        "not documented",
        "passes over it",
        "If it is meant for the model, put it into the body.",
    ),
    Kind(
        "mixed_models",
        Level.INFO,
        "The lines name several models.",
        "fails the batch: one model a file",
        "runs each line on its own model",
        "Nothing needs to be done here.",
    ),
    Kind(
        "models_unchecked",
        Level.INFO,
        "Nothing says which models are served, so the names were not checked.",
        "fails the batch for a name that it does not know",
        "fails the batch for a name that is neither a model nor an alias",
        "Name the configuration with --config, a running server with --url, or the models with --model.",
    ),
    Kind(
        "no_seed",
        Level.INFO,
        "The temperature is above 0 (1 where nothing is said) and there is no seed: another run answers differently.",
        "the same",
        "the same",
        "Set temperature to 0, or a seed, where the run has to be repeatable.",
    ),
    Kind(
        "crlf",
        Level.INFO,
        "Lines end with CR LF.",
        "takes them",
        "takes them; the CR belongs to no request",
        "Nothing needs to be done; --fix writes LF.",
    ),
    Kind(
        "blank_lines",
        Level.INFO,
        "There are blank lines.",
        "may refuse them as invalid_json_line",
        "passes over them; line numbers count them",
        "Nothing needs to be done; --fix leaves them out.",
    ),
    Kind(
        "no_final_newline",
        Level.INFO,
        "The last line has no line ending.",
        "takes it",
        "takes it; but a file that was cut off looks the same",
        "Check that the last request is there; --fix adds the line ending.",
    ),
)

KINDS = {kind.code: kind for kind in _ALL}

assert KINDS.keys() >= set(LINE_ERROR_CODES) - {""}, "every verdict of the index has an explanation"
