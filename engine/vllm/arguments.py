"""From `engine_args` to vLLM's command line: passed verbatim, refused by name where vLLM has no such flag.

Nothing here imports vllm. Its flags are asked for once in a process of its own and kept in the user's cache, so that
the configuration can be checked before anything is started; the host's own parser has the last word on values.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
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


def adapters(flags: Sequence[str]) -> list[str]:
    """Names of the LoRA adapters that the flags load: each is served as a model of its own."""
    names: list[str] = []
    for position, flag in enumerate(flags):
        if not flag.startswith("--") or canonical(flag) != "lora-modules":
            continue
        inline = flag.partition("=")[2]
        following = takewhile(lambda value: not value.startswith("--"), flags[position + 1 :])
        names += [_adapter_name(value) for value in ([inline] if inline else following)]
    return names


def _adapter_name(value: str) -> str:
    """`name=path`, or a JSON object with a `name`."""
    try:
        found = json.loads(value)
    except ValueError:
        return value.partition("=")[0]
    return str(found["name"]) if isinstance(found, dict) and "name" in found else value


def check_ours(engine_args: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse what is not the engine's business."""
    for flag in _options(to_flags(engine_args)):
        name = canonical(flag)
        if name in OURS:
            raise UnknownArgument(f"engine argument `{name}` cannot be set: {OURS[name]}")


def settle(flags: Sequence[str], known: Mapping[str, bool]) -> list[str]:
    """The flags as vLLM's parser takes them. `known` maps its option strings to whether each takes a value.

    Refuses unknown ones by name. `--no-x` is left out where `x` is a plain switch that has no such form.
    """
    settled = list(flags)
    for flag in _options(flags):
        name = canonical(flag)
        positive = "--" + name.removeprefix("no-")
        if f"--{name}" not in known and name.startswith("no-") and known.get(positive) is False:
            settled.remove(flag)
        elif not _is_known(flag, name, known):
            raise UnknownArgument(f"vLLM has no engine argument `{name.replace('-', '_')}`{_closest(name, known)}")
    return settled


def _options(flags: Sequence[str]) -> list[str]:
    return [flag for flag in flags if flag.startswith("-") and not _is_number(flag)]


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
