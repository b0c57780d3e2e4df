"""Why a configuration was refused: the key, where it was written, and what was probably meant."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

KeyPath = tuple[str | int, ...]

HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")
KEY_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")


class ConfigError(Exception):
    """One line of text for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class AtKey(ValueError):
    """Raised by a check of several keys together: `path` is the one whose line people are sent to."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Origins:
    """The layers a configuration was made of, to say for each key where it came from."""

    flags: Mapping[str, Any]
    environment: Mapping[str, Any]
    file: Mapping[str, Any]
    file_path: Path | None
    file_text: str

    def where(self, path: KeyPath) -> str:
        if _holds(self.flags, path):
            return "flags"
        if _holds(self.environment, path):
            return f"environment: NIGHTBATCH_{'__'.join(str(part) for part in path).upper()}"
        if self.file_path is not None and _holds(self.file, path[:1]):
            line = line_of(self.file_text, path)
            return f"{self.file_path}" + (f" line {line}" if line else "")
        return "configuration"


def explain(error: ValidationError, root: type[BaseModel], origins: Origins) -> ConfigError:
    return ConfigError([_explain(item, root, origins) for item in error.errors(include_url=False)])


def _explain(item: Any, root: type[BaseModel], origins: Origins) -> str:
    error = item.get("ctx", {}).get("error")
    path: KeyPath = error.path if isinstance(error, AtKey) else item["loc"]
    where = origins.where(path)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {dotted(path)}{suggestion(str(path[-1]), path[:-1], root)}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = "" if item["type"] in {"missing", "value_error"} else f", not {item['input']!r}"
    return f"{where}: {dotted(path)}: {message}{shown}" if path else f"{where}: {message}"


def suggestion(key: str, path: KeyPath, root: type[BaseModel]) -> str:
    """The section that has a key of this name, or the closest key beside it, or the list of what is known."""
    siblings = known_keys(root, path)
    homes = [name for name in known_keys(root, ()) if name not in path and key in known_keys(root, (name,))]
    if homes:
        return f" ({key} belongs to [{homes[0]}])"
    close = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {dotted((*path, close[0]))}?)"
    return f" (known here: {', '.join(siblings)})"


def known_keys(root: type[BaseModel], path: KeyPath) -> list[str]:
    kind: Any = root
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(str(part))
            kind = field.annotation if field else None
        else:
            kind = next((inner for inner in get_args(kind)[::-1] if inner not in {Ellipsis, type(None)}), None)
    while get_origin(kind) in {Union, types.UnionType, tuple, list}:
        kind = next((inner for inner in get_args(kind) if inner not in {Ellipsis, type(None)}), None)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def dotted(path: KeyPath) -> str:
    """`models[1].id`: list positions count from 0 inside and from 1 for people."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def line_of(text: str, path: KeyPath) -> int | None:
    """The line of TOML (from 1) that sets `path`, or of the deepest table that holds it. A scan, not a parser: a key
    inside a multi-line string may be taken for one, which costs only a line number."""
    best: tuple[int, int] | None = None
    table: KeyPath = ()
    seen: dict[KeyPath, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                seen[table] = seen.get(table, -1) + 1
            table = _with_positions(table, seen)
            found = table
        elif key := KEY.match(line):
            found = (*table, *_parts(key[1]))
        else:
            continue
        if found == path[: len(found)] and (best is None or len(found) > best[0]):
            best = (len(found), number)
    return best[1] if best else None


def _parts(key: str) -> KeyPath:
    return tuple(match[1] or match[2] or match[3] or "" for match in KEY_PART.finditer(key))


def _with_positions(table: KeyPath, seen: Mapping[KeyPath, int]) -> KeyPath:
    out: list[str | int] = []
    for depth, part in enumerate(table, start=1):
        out.append(part)
        if table[:depth] in seen:
            out.append(seen[table[:depth]])
    return tuple(out)


def _holds(layer: Mapping[str, Any], path: KeyPath) -> bool:
    here: Any = layer
    for part in path:
        inside = part in here if isinstance(here, Mapping) else isinstance(here, list) and part in range(len(here))
        if not inside:
            return False
        here = here[part]
    return bool(path)
