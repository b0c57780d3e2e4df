"""An inspection on a screen of any width, and the same for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nightbatch.commands.progress import mib
from nightbatch.inspection.findings import Finding
from nightbatch.inspection.fixing import Fixed
from nightbatch.inspection.kinds import KINDS, Level
from nightbatch.inspection.validating import Inspection
from scheduler.policy.validation import normal_url
from store.line_shapes import TOKEN_BYTES

STYLES = {Level.ERROR: "red", Level.WARN: "yellow", Level.INFO: "cyan"}
NAMES_SHOWN_MAX = 4
DETAILS_SHOWN_MAX = 8
"""Fields, urls or models of one kind of finding on a screen; `--json` has more."""

TITLE_CHARS_MAX = 44
MESSAGE_CHARS_MAX = 300


def shown(text: str, chars_max: int = MESSAGE_CHARS_MAX) -> str:
    """Text out of a file, for a terminal: no control characters, not without end."""
    plain = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return plain if len(plain) <= chars_max else plain[: chars_max - 3] + "..."


def indented(content: RenderableType, columns: int) -> Padding:
    return Padding(content, (0, 0, 0, columns), expand=False)


def screen(inspection: Inspection, path: Path, *, explain: bool) -> RenderableType:
    found = _shown_ones(inspection.findings.all())
    parts: list[RenderableType] = [_heading(inspection, path), Text()]
    if found:
        parts += [_table(found), Text()]
    for code in dict.fromkeys(finding.code for finding in found):
        if explain or KINDS[code].level is not Level.INFO:
            for finding in found:
                if finding.code == code:
                    parts += _examples(finding)
            parts += [_explanation(code), Text()] if explain else [Text()]
    parts += _aliases(inspection)
    parts.append(_conclusion(inspection, found))
    return Group(*parts)


def _shown_ones(found: list[Finding]) -> list[Finding]:
    """At most DETAILS_SHOWN_MAX of each kind, and one for the rest of the kind."""
    shown_ones: list[Finding] = []
    for code in dict.fromkeys(finding.code for finding in found):
        of_code = [finding for finding in found if finding.code == code]
        kept, rest = of_code[:DETAILS_SHOWN_MAX], of_code[DETAILS_SHOWN_MAX:]
        if len(rest) > 1:
            kept.append(Finding(code, f"({len(rest)} others)", sum(finding.count for finding in rest)))
        else:
            kept += rest
        shown_ones += kept
    return shown_ones


def _heading(inspection: Inspection, path: Path) -> Table:
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(style="bold", no_wrap=True)
    view.add_column(overflow="fold")
    size = mib(inspection.index.header.blob_bytes)
    tokens = inspection.prompt_bytes // TOKEN_BYTES
    rows = {
        "file": Text(shown(f"{path}: {inspection.lines:,} requests, {size}")),
        "endpoint": Text(_names(inspection.urls)),
        "models": Text(_names(inspection.models)),
        "checked against": Text(shown(inspection.served.origin)),
        "tokens": Text(f"about {tokens:,} of prompts (from their bytes); {_most(inspection)}"),
    }
    for name, value in rows.items():
        if value.plain:
            view.add_row(name, value)
    return view


def _most(inspection: Inspection) -> str:
    unlimited = sum(one.count for one in inspection.findings.get("no_output_limit"))
    limited = f"the limits allow {inspection.output_tokens:,} of output"
    if not unlimited:
        return limited
    known = (inspection.served.resolve(name) for name in inspection.models)
    context = max((model.context_tokens_max or 0 for model in known if model is not None), default=0)
    each = f", each of which may write up to {context:,}" if context else ""
    return f"{limited}, and {unlimited:,} lines set none{each}"


def _names(counts: Mapping[str, int]) -> str:
    listed = [f"{shown(name, TITLE_CHARS_MAX)} ({count:,})" for name, count in counts.items()][:NAMES_SHOWN_MAX]
    more = len(counts) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more > 0 else "")


def _table(found: list[Finding]) -> Table:
    view = Table(box=None, pad_edge=False, header_style="bold")
    view.add_column("level")
    view.add_column("what", overflow="fold")
    view.add_column("count", justify="right", no_wrap=True)
    view.add_column("first lines", no_wrap=True, overflow="ellipsis")
    for finding in found:
        lines = [line for line, _ in finding.examples if line]
        more = ", ..." if lines and finding.count > len(lines) else ""
        view.add_row(
            Text(finding.level.value, style=STYLES[finding.level]),
            Text(shown(finding.title, TITLE_CHARS_MAX)),
            f"{finding.count:,}",
            ", ".join(str(line) for line in lines) + more,
        )
    return view


def _examples(finding: Finding) -> Iterator[RenderableType]:
    """One line for each message; the same message is said once."""
    if not finding.examples:
        return
    yield Text(shown(finding.title), style=STYLES[finding.level])
    said: dict[str, list[int]] = {}
    for line, message in finding.examples:
        said.setdefault(message, []).append(line)
    for message, lines in said.items():
        where = f"line {lines[0]}: " if len(lines) == 1 and lines[0] else ""
        yield indented(Text(where + shown(message)), 2)


def _explanation(code: str) -> RenderableType:
    kind = KINDS[code]
    view = Table(box=None, pad_edge=False, show_header=False)
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    rows = (("means", kind.meaning), ("OpenAI", kind.openai), ("Nightbatch", kind.nightbatch), ("to do", kind.fix))
    for name, text in rows:
        view.add_row(name, Text(text))
    return indented(view, 2)


def alias_lines(inspection: Inspection) -> list[str]:
    """What makes the unknown model names known, for nightbatch.toml."""
    target = (_fitting(inspection) or ["MODEL"])[0]
    return [f"{_toml(name)} = {_toml(target)}" for name in inspection.missing]


def _fitting(inspection: Inspection) -> list[str]:
    """The models that serve the endpoint."""
    endpoint = normal_url(inspection.endpoint)
    return sorted(name for name, model in inspection.served.by_id.items() if endpoint in model.endpoints)


def _toml(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in escaped) + '"'


def _aliases(inspection: Inspection) -> list[RenderableType]:
    lines = alias_lines(inspection)
    if not lines:
        return []
    choose = " (put the model that you mean)" if len(_fitting(inspection)) != 1 else ""
    listed = lines[:NAMES_SHOWN_MAX]
    more = [f"# and {len(lines) - len(listed)} more"] if len(lines) > len(listed) else []
    return [
        Text(f"add to nightbatch.toml{choose}:"),
        *(indented(Text(line), 2) for line in ["[aliases]", *listed, *more]),
        Text(),
    ]


def _conclusion(inspection: Inspection, found: list[Finding]) -> Text:
    total = f"{inspection.lines:,}"
    if not failed(inspection):
        warnings = sum(finding.level is Level.WARN for finding in found)
        rest = f"; {warnings} kinds of warnings" if warnings > 1 else "; one kind of warning" if warnings else ""
        return Text(f"no line of {total} would fail{rest}", style="green")
    refused = inspection.refused or not inspection.lines
    what = f"{inspection.failing:,} of {total} lines would fail"
    then = ": the server would refuse the batch" if refused else ", the others would run"
    if inspection.refused and inspection.failing < inspection.lines:
        then += " (with --on-invalid-line report it would run the others)"
    return Text(f"{what}{then}", style="red")


def failed(inspection: Inspection) -> bool:
    return any(finding.level is Level.ERROR for finding in inspection.findings.all())


def fixed_screen(fixed: Fixed) -> RenderableType:
    parts: list[RenderableType] = [Text(f"{fixed.path}: {fixed.kept:,} lines, {fixed.changed:,} of them changed")]
    parts += [indented(Text(f"{count:,} {shown(what)}"), 2) for what, count in fixed.done.most_common()]
    if fixed.left_out:
        parts.append(Text(f"{fixed.left_out_path}: what was left out, as it was"))
        parts += [indented(Text(f"{count:,} {code}"), 2) for code, count in fixed.left_out.most_common()]
    return Group(*parts)


def for_programs(inspection: Inspection, path: Path, fixed: Fixed | None, rest: Inspection | None) -> dict[str, Any]:
    return {
        "file": str(path),
        "bytes": inspection.index.header.blob_bytes,
        "lines": inspection.lines,
        "endpoint": inspection.endpoint,
        "urls": dict(inspection.urls),
        "models": dict(inspection.models),
        "checked_against": inspection.served.origin,
        "prompt_bytes": inspection.prompt_bytes,
        "output_tokens_max": inspection.output_tokens,
        "failing_lines": inspection.failing,
        "refused_lines": inspection.refused,
        "missing_models": list(inspection.missing),
        "findings": [_plain(finding) for finding in inspection.findings.all()],
        "fixed": None if fixed is None or rest is None else _plain_fixed(fixed, rest),
    }


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "level": finding.level.value,
        "detail": finding.detail or None,
        "count": finding.count,
        "examples": [{"line": line or None, "message": message} for line, message in finding.examples],
    }


def _plain_fixed(fixed: Fixed, rest: Inspection) -> dict[str, Any]:
    return {
        "file": str(fixed.path),
        "lines": fixed.kept,
        "changed": fixed.changed,
        "done": dict(fixed.done),
        "left_out": dict(fixed.left_out),
        "left_out_file": str(fixed.left_out_path) if fixed.left_out else None,
        "failing_lines": rest.failing,
        "findings": [_plain(finding) for finding in rest.findings.all()],
    }
