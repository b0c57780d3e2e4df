"""Prompts that are too long for their model, and output limits that do not fit.

Only lines that could be too long are counted: a prompt has at most as many tokens as its line has bytes, and what a
chat template adds is less than what JSON puts around a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.tokens import PromptCounter
from nightbatch.inspection.bodies import OUTPUT_LIMITS
from nightbatch.inspection.counting import Counters
from nightbatch.inspection.findings import Findings
from nightbatch.inspection.served import Served
from nightbatch.inspection.verdicts import pairs_of
from scheduler.policy.validation import normal_url
from store.index import LineIndex
from store.line_shapes import TOKEN_BYTES
from store.lines import parse_line

TEMPLATE_BYTES: Final = 256
"""Room for what a template says on its own, such as a system prompt."""

MARK_TOKENS: Final = 16
"""Room for the marks around a text that is embedded or scored."""

COUNTED_AT_ONCE: Final = 256
BYTES_AT_ONCE: Final = 4 * 1024 * 1024

Lines = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""lines counted, lines to count."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Lines of one endpoint and model, whose context is known."""

    lines: Lines
    endpoint: str
    model: str
    context: int
    generates: bool


def judge_contexts(
    index: LineIndex,
    blob_path: Path,
    served: Served,
    counters: Counters,
    findings: Findings,
    progress: Progress = lambda done, total: None,
) -> npt.NDArray[np.bool_]:
    """Returns which lines (by line_no) an engine would refuse."""
    refused = np.zeros(index.count, np.bool_)
    groups = list(_groups(index, served, counters))
    suspects = [_suspects(index, group) for group in groups]
    total, done = sum(map(len, suspects)), 0
    for group, lines in zip(groups, suspects, strict=True):
        if group.generates:
            _judge_limits(index, group, findings, refused)
        counter = counters.of(group.model) if len(lines) else None
        if counter is None:
            _estimate(index, group, lines, findings)
            continue
        for some in _portions(index, lines):
            _judge_counts(index, blob_path, group, some, counter, findings, refused)
            done += len(some)
            progress(done, total)
    return refused


def _groups(index: LineIndex, served: Served, counters: Counters) -> Iterator[_Group]:
    for lines, url, model in pairs_of(index):
        info = served.resolve(index.models[model])
        if info is None:
            continue
        context = info.context_tokens_max or counters.context_of(info.id)
        if context:
            endpoint = normal_url(index.urls[url])
            yield _Group(lines, endpoint, info.id, context, endpoint in OUTPUT_LIMITS)


def _judge_limits(index: LineIndex, group: _Group, findings: Findings, refused: npt.NDArray[np.bool_]) -> None:
    asked: npt.NDArray[Any] = index.records["output_tokens"][group.lines]
    above = group.lines[asked > group.context]
    refused[above] = True
    for line_no in above[: findings.examples_max].tolist():
        record = index.records[line_no]
        message = f"asks for {int(record['output_tokens']):,} output tokens; the context has {group.context:,}"
        findings.add("output_limit_above_context", int(record["line"]), message)
    findings.of("output_limit_above_context").count += max(0, len(above) - findings.examples_max)


def _suspects(index: LineIndex, group: _Group) -> Lines:
    """The lines that could be too long, by their bytes alone."""
    records = index.records[group.lines]
    if group.generates:
        most = records["length"].astype(np.int64) + TEMPLATE_BYTES + records["output_tokens"]
    else:
        most = records["prompt_bytes"].astype(np.int64) + MARK_TOKENS
    suspects: Lines = group.lines[most > group.context]
    return suspects


def _portions(index: LineIndex, lines: Lines) -> Iterator[Lines]:
    start = 0
    while start < len(lines):
        some = lines[start : start + COUNTED_AT_ONCE]
        sizes = np.cumsum(index.records["length"][some].astype(np.int64))
        fitting = max(1, int(np.searchsorted(sizes, BYTES_AT_ONCE)))
        yield some[:fitting]
        start += fitting


def _judge_counts(
    index: LineIndex,
    blob_path: Path,
    group: _Group,
    lines: Lines,
    counter: PromptCounter,
    findings: Findings,
    refused: npt.NDArray[np.bool_],
) -> None:
    bodies = [parse_line(raw).body for raw in index.read_lines(blob_path, lines.tolist())]
    longest = group.context - 1 if group.generates else group.context
    for line_no, tokens in zip(lines.tolist(), counter.count(group.endpoint, bodies), strict=True):
        if tokens is None:
            _estimate(index, group, np.array([line_no]), findings)
            continue
        record = index.records[line_no]
        line, asked = int(record["line"]), int(record["output_tokens"])
        if tokens > longest:
            refused[line_no] = True
            message = f"the prompt has {tokens:,} tokens; {group.model} takes {longest:,}"
            findings.add("context_length_exceeded", line, message)
        elif group.generates and group.context >= asked > group.context - tokens:
            message = f"{tokens:,} prompt tokens and {asked:,} of output are more than the context of {group.context:,}"
            findings.add("output_cut_by_context", line, message)


def _estimate(index: LineIndex, group: _Group, lines: Lines, findings: Findings) -> None:
    """By bytes alone; a line of several inputs is taken to hold equal ones."""
    sizes = index.records["prompt_bytes"][lines]
    if not group.generates:
        sizes = sizes // np.maximum(index.records["sub_requests"][lines], 1)
    likely = np.flatnonzero(sizes // TOKEN_BYTES > group.context)
    for place in likely[: findings.examples_max].tolist():
        size = int(sizes[place])
        message = f"{size:,} bytes are about {size // TOKEN_BYTES:,} tokens; {group.model} takes {group.context:,}"
        findings.add("context_length_likely", int(index.records["line"][lines[place]]), message)
    findings.of("context_length_likely").count += max(0, len(likely) - findings.examples_max)
