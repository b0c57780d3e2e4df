"""A cleaned copy of a batch input: what can be put right without changing what is asked, and nothing else.

Left out is what no engine could answer; it goes into a file of its own, so that nothing is lost. A custom_id is never
changed unless that was asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from engine.bodies import STRIPPED_FIELDS
from nightbatch.inspection.scanning import Framing, read_lines
from scheduler.policy.validation import normal_url
from store.index import LineIndex
from store.lines import BYTE_ORDER_MARK, LINE_ERROR_CODES, check_line
from store.records import LineError

DUPLICATE: Final = LINE_ERROR_CODES.index("duplicate_custom_id")
TOO_MANY: Final = LINE_ERROR_CODES.index("too_many_requests")

Fields = dict[str, msgspec.Raw]

_decode_fields = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode
_NOT_OBJECTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TRUE: Final = b"true"
_STREAM: Final = frozenset({"stream", "stream_options"})


@dataclass(frozen=True, slots=True)
class FixRules:
    """`models` maps a model name to the one to write instead; `rename_duplicates` keeps later lines of a custom_id
    under `<custom_id>-line-<number>`."""

    endpoint: str
    models: Mapping[str, str] = field(default_factory=dict)
    rename_duplicates: bool = False


@dataclass(slots=True)
class Fixed:
    """`done` counts what was put right, by what; `left_out` what was not taken over, by the code of its error."""

    path: Path
    left_out_path: Path
    kept: int = 0
    changed: int = 0
    done: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


def left_out_path(out: Path) -> Path:
    return out.with_name(f"{out.stem}.left-out{out.suffix}")


def write_fixed(
    path: Path,
    index: LineIndex,
    out: Path,
    rules: FixRules,
    line_bytes_max: int,
    on_bytes: Callable[[int], None] = lambda done: None,
) -> Fixed:
    """Both files appear whole or not at all; the one of what was left out only if there is anything."""
    fixed = Fixed(out, left_out_path(out))
    framing = Framing()
    codes = _codes_by_line(index)
    with _written(out) as kept, _written(fixed.left_out_path) as rest:
        for line, raw in read_lines(path, line_bytes_max, framing, on_bytes):
            if line >= len(codes) or codes[line] == TOO_MANY:
                mended: tuple[bytes, list[str]] | LineError = LineError("too_many_requests", "", line=line)
            else:
                mended = mend(raw, line, codes[line] == DUPLICATE, rules)
            if isinstance(mended, LineError):
                fixed.left_out[mended.code] += 1
                rest.write(raw + b"\n")
                continue
            new, done = mended
            fixed.kept += 1
            fixed.changed += bool(done)
            fixed.done.update(done)
            kept.write(new + b"\n")
    _note_framing(fixed, framing, index)
    if not fixed.left_out:
        fixed.left_out_path.unlink(missing_ok=True)
    return fixed


def _codes_by_line(index: LineIndex) -> bytes:
    """The place of each line's error in LINE_ERROR_CODES, by its number in the file: one byte a line."""
    lines = index.records["line"]
    codes = np.zeros(int(lines[-1]) + 1 if len(lines) else 1, np.uint8)
    codes[lines] = index.records["error"]
    return codes.tobytes()


def mend(raw: bytes, line: int, repeated: bool, rules: FixRules) -> tuple[bytes, list[str]] | LineError:
    """The line put right and what was done to it, or why it is left out. `repeated`: its custom_id came before."""
    done: list[str] = []
    if line == 1 and raw.startswith(BYTE_ORDER_MARK):
        raw = raw.removeprefix(BYTE_ORDER_MARK)
        done.append("byte order mark removed")
    try:
        fields = _decode_fields(raw)
        body = _decode_fields(fields["body"])
    except (*_NOT_OBJECTS, KeyError):
        found = check_line(raw, line=line)
        return found if isinstance(found, LineError) else LineError("invalid_json_line", "", line=line)
    changes = [*_mend_method(fields), *_mend_body(body, rules)]
    if repeated:
        if not rules.rename_duplicates:
            return LineError("duplicate_custom_id", "", line=line)
        changes += _rename(fields, line)
    if changes:
        raw = _encode({**fields, "body": body})
    facts = check_line(raw, line=line)
    if isinstance(facts, LineError):
        return facts
    if normal_url(facts.url) != normal_url(rules.endpoint):
        return LineError("invalid_url", "", line=line)
    return raw, [*done, *changes]


def _mend_method(fields: Fields) -> Iterator[str]:
    given = bytes(fields.get("method", b'""'))
    if given != b'"POST"' and given.upper() in (b'""', b'"POST"'):
        fields["method"] = msgspec.Raw(b'"POST"')
        yield 'method set to "POST"'


def _mend_body(body: Fields, rules: FixRules) -> Iterator[str]:
    for name in STRIPPED_FIELDS & body.keys():
        if name == "stream" and bytes(body[name]) != _TRUE:
            continue
        del body[name]
        yield f"{name} removed"
    if not rules.models or "model" not in body:
        return
    try:
        given = msgspec.json.decode(body["model"], type=str)
    except _NOT_OBJECTS:
        return
    if (new := rules.models.get(given)) is not None:
        body["model"] = msgspec.Raw(_encode(new))
        yield f"model {given} replaced by {new}"


def _rename(fields: Fields, line: int) -> Iterator[str]:
    try:
        custom_id = msgspec.json.decode(fields["custom_id"], type=str)
    except (*_NOT_OBJECTS, KeyError):
        return
    fields["custom_id"] = msgspec.Raw(_encode(f"{custom_id}-line-{line}"))
    yield "custom_id renamed"


def _note_framing(fixed: Fixed, framing: Framing, index: LineIndex) -> None:
    """What happened to line endings and to lines that never came through: the reading lets too long ones go."""
    for what, count in (("CR LF made LF", framing.crlf), ("blank line left out", framing.blank)):
        if count:
            fixed.done[what] += count
    if framing.ends_with not in (b"", b"\n"):
        fixed.done["line ending added at the end"] += 1
    too_long = int((index.records["error"] == LINE_ERROR_CODES.index("line_too_long")).sum())
    if too_long:
        fixed.left_out["line_too_long"] += too_long


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as out:
            yield out
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
