"""From `engine_args` to vLLM's command line: passed verbatim, refused by name where vLLM has no such flag.

Nothing here imports vllm. Its flags are asked for once in a process of its own and kept in the user's cache, so that
the configuration can be checked before anything is started; the host's own parser has the last word on values.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

OURS = {
    "model": "the model is named by the `model` of the configuration (or `--model`)",
    "model-tag": "the model is named by the `model` of the configuration (or `--model`)",
    "served-model-name": "the name is the `id` of the model in the configuration",
    "config": "write the options themselves under `engine_args`",
    "headless": "engines are started by nightbatch",
    "api-server-count": "nightbatch is the API server",
    "grpc": "nightbatch is the API server",
    "host": "nightbatch is the API server: set its own `host`",
    "port": "nightbatch is the API server: set its own `port`",
    "uds": "nightbatch is the API server",
    "api-key": "nightbatch checks keys itself: set its own `api_keys`",
    "root-path": "nightbatch is the API server",
    "middleware": "nightbatch is the API server",
    "ssl-keyfile": "nightbatch is the API server",
    "ssl-certfile": "nightbatch is the API server",
    "scheduling-policy": "batch work stays behind online requests only with `priority`, which is always set",
}
"""Flags that cannot be passed on, and why."""


class UnknownArgument(ValueError):
    """An engine argument that vLLM does not have, or that is not the engine's business."""


def to_flags(engine_args: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """vLLM's command line for a mapping (TOML) or a list (everything after `--`)."""
    if not isinstance(engine_args, Mapping):
        return list(engine_args)
    return [part for name, value in engine_args.items() for part in _one_flag(name, value)]


def _one_flag(name: str, value: Any) -> list[str]:
    """`true` is the bare flag, `false` its `--no-` form, a table is JSON, a list of plain values follows the flag."""
    flag = "--" + canonical(name)
    if value is None:
        return []
    if value is True:
        return [flag]
    if value is False:
        return ["--no-" + canonical(name)]
    if isinstance(value, Mapping):
        return [flag, json.dumps(value)]
    if isinstance(value, (list, tuple)):
        return [flag, *(json.dumps(item) if isinstance(item, Mapping) else str(item) for item in value)]
    return [flag, str(value)]


def canonical(name: str) -> str:
    """`--max_model_len=5`, `max-model-len` and `max_model_len` are one name."""
    return name.split("=", 1)[0].split(".", 1)[0].lstrip("-").replace("_", "-")


def names_in(flags: Sequence[str]) -> set[str]:
    """Canonical names of the flags in a command line; `--no-x` counts as `x`."""
    names = {canonical(flag) for flag in flags if flag.startswith("-") and not _is_number(flag)}
    return names | {name.removeprefix("no-") for name in names}


def value_of(flags: Sequence[str], name: str) -> str | None:
    """The last value given to a flag, in either spelling."""
    found = None
    for position, flag in enumerate(flags):
        if flag.startswith("--") and canonical(flag) == name:
            _, equals, value = flag.partition("=")
            following = flags[position + 1] if position + 1 < len(flags) else None
            found = value if equals else following
    return found


def check(engine_args: Mapping[str, Any] | Sequence[str], known: Collection[str] | None) -> None:
    """Refuse what vLLM would not take. `known` holds vLLM's option strings; None checks only what is ours."""
    flags = [flag for flag in to_flags(engine_args) if flag.startswith("-") and not _is_number(flag)]
    for flag in flags:
        name = canonical(flag)
        if name in OURS:
            raise UnknownArgument(f"engine argument `{name}` cannot be set: {OURS[name]}")
        if known is not None and not _is_known(flag, name, known):
            raise UnknownArgument(f"vLLM has no engine argument `{name.replace('-', '_')}`{_closest(name, known)}")


def _is_known(flag: str, name: str, known: Collection[str]) -> bool:
    if not flag.startswith("--"):  # -tp 2, or -O3
        return flag in known or flag[:2] in known
    return f"--{name}" in known


def _closest(name: str, known: Collection[str]) -> str:
    names = [option.removeprefix("--") for option in known if option.startswith("--")]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if not close:
        return ""
    return "; did you mean " + " or ".join(f"`{match.replace('-', '_')}`" for match in close) + "?"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
