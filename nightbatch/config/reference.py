"""The tables of docs/configuration.md, made from the sections themselves: a test keeps the two equal.

python -m nightbatch.config.reference docs/configuration.md
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nightbatch.config.model import ModelConfig
from nightbatch.config.notifying import EventsSection, WebhookConfig
from nightbatch.config.online import OnlineSection
from nightbatch.config.reuse import ReuseSection
from nightbatch.config.sections import (
    LoggingSection,
    SchedulerSection,
    ServerSection,
    StoreSection,
    TenantConfig,
)
from nightbatch.config.signal import SignalConfig
from nightbatch.config.slo import SloConfig
from nightbatch.config.tiers import AdmissionSection, TierConfig
from nightbatch.config.windows import OffPeakConfig, WindowsSection

START, END = "<!-- keys: made by nightbatch.config.reference -->", "<!-- end of keys -->"

TABLES: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("`[server]`", ServerSection, ""),
    ("`[store]`", StoreSection, ""),
    ("`[scheduler]`", SchedulerSection, ""),
    (
        "`[[models]]`",
        ModelConfig,
        "One table for each model. What is said to be of one engine (`vllm: ...`) is refused for the others.",
    ),
    (
        "`slo` of a model",
        SloConfig,
        "What its online requests are promised while batch work shares the engine. [Scheduling](scheduling.md).",
    ),
    (
        "`[tiers.NAME]`",
        TierConfig,
        "What a `completion_window` of that name means. Built in: `1h` (20 % off), `24h`, `7d` (50 %); change any key.",
    ),
    ("`[admission]`", AdmissionSection, "[Scheduling](scheduling.md#what-is-promised) has the arithmetic."),
    (
        "`[online]`",
        OnlineSection,
        "How batch work yields to online requests on engines without `online_first`. [Scheduling](scheduling.md).",
    ),
    (
        "`[reuse]`",
        ReuseSection,
        "Requests that were answered before. [Throughput](throughput.md#the-same-question-twice) says which.",
    ),
    ("`[windows]`", WindowsSection, "Off-peak hours. [Scheduling](scheduling.md) shows them at work."),
    ("`[[windows.off_peak]]`", OffPeakConfig, "One table for each window. Those that overlap are one."),
    (
        "`[windows.signal]`",
        SignalConfig,
        "A URL or a file that says when batches should wait, whatever the clock says. [Scheduling](scheduling.md).",
    ),
    ("`[[webhooks]]`", WebhookConfig, "URLs that hear of batches that end. [Webhooks](webhooks.md)."),
    ("`[events]`", EventsSection, ""),
    ("`[[tenants]]`", TenantConfig, "None: everyone is one tenant and no API key is asked for."),
    ("`[logging]`", LoggingSection, ""),
)

NAMES = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path", "date": "date"}
DEFAULTS_IN_WORDS = {"folder": "`$XDG_DATA_HOME/nightbatch`, else `~/.local/share/nightbatch`"}


def tables() -> str:
    return "\n".join(_table(*table) for table in TABLES)


def _table(title: str, section: type[BaseModel], about: str) -> str:
    lines = [f"### {title}", ""]
    if about:
        lines += [about, ""]
    lines += ["| key | type | default | |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {_type(field.annotation)}{_bounds(field)} | {_default(name, field)} | {field.description} |"
        for name, field in section.model_fields.items()
    ]
    return "\n".join([*lines, ""])


def _type(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in {Union, types.UnionType}:
        if any(get_origin(inner) is Literal for inner in get_args(kind)):
            return ", ".join(_type(inner) for inner in get_args(kind) if inner is not type(None))
        return _type(next(inner for inner in get_args(kind) if inner is not type(None)))
    if get_origin(kind) is tuple:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "table"
    if issubclass(kind, BaseModel):
        return "table"
    return NAMES[kind.__name__]


def _bounds(field: FieldInfo) -> str:
    names = ("ge", "gt", "le", "lt")
    found = {name: getattr(rule, name) for rule in field.metadata for name in names if hasattr(rule, name)}
    low = f"{found['ge']:.15g}" if "ge" in found else f"above {found['gt']:.15g}" if "gt" in found else ""
    high = f"{found['le']:.15g}" if "le" in found else f"below {found['lt']:.15g}" if "lt" in found else ""
    if low and high:
        return f", {low} to {high}"
    return f", {low}{'' if low.startswith('above') else ' or more'}" if low else f", up to {high}" if high else ""


def _default(name: str, field: FieldInfo) -> str:
    if name in DEFAULTS_IN_WORDS:
        return DEFAULTS_IN_WORDS[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or value in ((), {}) or isinstance(value, BaseModel):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def refreshed(text: str) -> str:
    """`text` with the part between the two marks made anew."""
    before, rest = text.split(START, 1)
    _, after = rest.split(END, 1)
    return f"{before}{START}\n\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
