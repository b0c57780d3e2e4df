"""One line's body, looked into as far as the engine will: fields that it strips, ignores or refuses, limits, seeds.

Lines of one file are much alike: what follows from the names of a body's fields is worked out once for each set of
names, and only values are looked at line by line.
"""

from __future__ import annotations

from array import array
from typing import Final

import msgspec

from engine.bodies import EMBEDDING_FORMATS
from engine.protocol import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES
from nightbatch.inspection.fields import verdict_of
from nightbatch.inspection.findings import Finding, Findings
from scheduler.policy.validation import normal_url

LINE_FIELDS: Final = frozenset({"custom_id", "method", "url", "body"})
OUTPUT_LIMITS: Final = {
    CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
}
SHAPES_MAX: Final = 10_000
"""Sets of field names that are remembered; a file that has more is looked at more slowly, not wrongly."""

NAME_CHARS_SHOWN: Final = 60
_NULL: Final = b"null"
_NOT_SET: Final = frozenset({b"null", b"false"})
_NOUGHTS: Final = frozenset({b"0", b"0.0", b"-0", b"-0.0"})

Fields = dict[str, msgspec.Raw]

_decode_fields = msgspec.json.Decoder(Fields).decode
_NOT_OBJECTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Shape(msgspec.Struct, gc=False):
    """What follows from a url and the names of a body's fields. Findings come with the message for an example."""

    always: list[tuple[Finding, str, str]]
    """(finding, field, message): found unless the field is null."""
    when_set: list[tuple[Finding, str, str]]
    """The same, unless the field is null or false."""
    limits: list[str]
    no_limit: tuple[Finding, str] | None
    sampled: bool
    embeds: bool


class BodyInspector:
    """Call `look` with every line. What is wrong with a line's form is the index's to find: here it is passed over."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._shapes: dict[tuple[bytes, tuple[str, ...]], _Shape] = {}
        self._no_seed = findings.of("no_seed")
        self._examples_max = findings.examples_max
        self.refused_lines = array("I")
        """The lines that an engine would refuse for a field."""

    def look(self, raw: bytes, line: int) -> None:
        try:
            fields = _decode_fields(raw)
            body = _decode_fields(fields["body"])
            url = bytes(fields["url"])
        except (*_NOT_OBJECTS, KeyError):
            return
        if len(fields) > len(LINE_FIELDS):
            self._look_beside(fields, line)
        key = (url, tuple(body))
        shape = self._shapes.get(key) or self._shape(key)
        for finding, name, message in shape.always:
            if bytes(body[name]) != _NULL:
                self._count(finding, line, message)
        for finding, name, message in shape.when_set:
            if bytes(body[name]) not in _NOT_SET:
                self._count(finding, line, message)
                self.refused_lines.append(line)
        if shape.no_limit is not None and not any(bytes(body[name]) != _NULL for name in shape.limits):
            self._count(shape.no_limit[0], line, shape.no_limit[1])
        if shape.sampled:
            self._look_for_seed(body, line)
        if shape.embeds and bytes(body.get("encoding_format", _NULL)) not in EMBEDDING_FORMATS:
            message = "the field encoding_format is refused: in a result line it can only be float or base64"
            self._findings.add("field_refused", line, message, detail="encoding_format")
            self.refused_lines.append(line)

    def _count(self, finding: Finding, line: int, message: str) -> None:
        finding.count += 1
        if len(finding.examples) < self._examples_max:
            finding.examples.append((line, message))

    def _look_beside(self, fields: Fields, line: int) -> None:
        for name in fields.keys() - LINE_FIELDS:
            shown = name[:NAME_CHARS_SHOWN]
            self._findings.add("line_field_unknown", line, f"the key {shown!r} belongs to no request", detail=shown)

    def _look_for_seed(self, body: Fields, line: int) -> None:
        temperature = bytes(body.get("temperature", _NULL))
        if temperature not in _NOUGHTS and bytes(body.get("seed", _NULL)) == _NULL:
            said = "not said, so 1" if temperature == _NULL else temperature[:20].decode(errors="replace")
            self._count(self._no_seed, line, f"temperature is {said}; there is no seed")

    def _shape(self, key: tuple[bytes, tuple[str, ...]]) -> _Shape:
        if len(self._shapes) >= SHAPES_MAX:
            self._shapes.clear()
        shape = self._shapes[key] = self._work_out(_endpoint(key[0]), key[1])
        return shape

    def _work_out(self, endpoint: str, names: tuple[str, ...]) -> _Shape:
        always: list[tuple[Finding, str, str]] = []
        when_set: list[tuple[Finding, str, str]] = []
        for name in names:
            verdict = verdict_of(endpoint, name)
            if verdict is None or name == "stream":  # `stream: true` is an error of form, and false says nothing
                continue
            shown = name[:NAME_CHARS_SHOWN]
            entry = (self._findings.of(verdict.code, shown), name, f"the field {shown} {verdict.why}")
            (when_set if verdict.code == "field_refused" else always).append(entry)
        possible = OUTPUT_LIMITS.get(endpoint, ())
        return _Shape(
            always=always,
            when_set=when_set,
            limits=[name for name in possible if name in names],
            no_limit=self._no_limit(endpoint, possible) if possible else None,
            sampled=bool(possible),
            embeds=endpoint == EMBEDDINGS,
        )

    def _no_limit(self, endpoint: str, possible: tuple[str, ...]) -> tuple[Finding, str]:
        if endpoint == COMPLETIONS:
            return self._findings.of("output_limit_default_16"), "no max_tokens: at most 16 tokens are generated"
        return self._findings.of("no_output_limit"), f"no {possible[-1]}: all of the context that the prompt leaves"


def _endpoint(url: bytes) -> str:
    try:
        return normal_url(msgspec.json.decode(url, type=str))
    except _NOT_OBJECTS:
        return ""
