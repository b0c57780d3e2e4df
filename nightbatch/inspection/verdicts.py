"""The server's own verdict on every line: its index, made by its own worker process, and its own validation.

A line's verdict beyond its form depends on its url and model alone, so each pair that occurs is judged once, by the
function that judges whole files in the server. That keeps a file of nothing but bad lines cheap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nightbatch.inspection.findings import Findings
from nightbatch.inspection.served import Served
from scheduler.policy.validation import EMPTY_FILE, find_problems
from store.index import LineIndex
from store.index_pool import IndexPool
from store.lines import LINE_ERROR_CODES
from store.records import LineError
from store.settings import StoreSettings

_ONE: Final = np.zeros(1, np.uint16)

Mask = npt.NDArray[np.bool_]
Column = npt.NDArray[Any]


async def build_index(path: Path, index_path: Path, settings: StoreSettings, secret: bytes) -> LineIndex:
    """An index of the file as the server would make it of an upload, by the same process."""
    pool = IndexPool(settings, secret)
    try:
        job = await pool.begin(path, index_path)
        await job.end(path.stat().st_size)
    finally:
        await pool.close()
    return LineIndex.open(index_path)


def judge_lines(index: LineIndex, blob_path: Path, endpoint: str, served: Served, findings: Findings) -> Mask:
    """Add the server's verdicts; returns which lines (by line_no) would be refused."""
    error_column: Column = index.records["error"]
    refused: Mask = error_column != 0
    if index.count == 0:
        findings.add(EMPTY_FILE.code, 0, EMPTY_FILE.message)
        return refused
    for code in np.unique(error_column[refused]).tolist():
        _add_form_errors(index, blob_path, code, findings)
    for line_nos, errors in _judged_pairs(index, endpoint, served):
        for error in errors:
            refused[line_nos] = True
            name = _name_of(error, index, int(line_nos[0]))
            for line_no in line_nos[: findings.examples_max].tolist():
                findings.add(error.code, int(index.records["line"][line_no]), error.message, detail=name)
            findings.of(error.code, name).count += max(0, len(line_nos) - findings.examples_max)
    return refused


def _add_form_errors(index: LineIndex, blob_path: Path, code: int, findings: Findings) -> None:
    of_code = np.flatnonzero(index.records["error"] == code)
    shown = of_code[: findings.examples_max]
    for error in index.iter_errors(blob_path, shown):
        findings.add(error.code, error.line or 0, error.message)
    findings.of(LINE_ERROR_CODES[code]).count += len(of_code) - len(shown)


def _judged_pairs(
    index: LineIndex, endpoint: str, served: Served
) -> Iterator[tuple[npt.NDArray[np.int64], Sequence[LineError]]]:
    """The lines of each pair of url and model that is not in order, and what is wrong with it."""
    for line_nos, url, model in pairs_of(index):
        name = index.models[model]
        problems = find_problems(
            endpoint=endpoint,
            urls=[index.urls[url]],
            models=[name],
            url_column=_ONE,
            model_column=_ONE,
            error_column=_ONE,
            line_column=np.ones(1, np.uint32),
            form_errors=tuple,
            pinned=served.pinned([name]),
            served=served.by_id,
        )
        if problems.total:
            yield line_nos, tuple(problems.errors())


def pairs_of(index: LineIndex) -> Iterator[tuple[npt.NDArray[np.int64], int, int]]:
    """(line_nos, url, model) for each pair that well-formed lines have: one sort, however many pairs there are."""
    whole = np.flatnonzero(index.records["error"] == 0)
    records = index.records[whole]
    keys = records["url"].astype(np.uint32) << np.uint32(16) | records["model"]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if len(keys) == 0:
        return
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    for start, stop in pairwise([*starts.tolist(), len(keys)]):
        key = int(keys[start])
        yield whole[order[start:stop]], key >> 16, key & 0xFFFF


def _name_of(error: LineError, index: LineIndex, line_no: int) -> str:
    column, names = ("url", index.urls) if error.param == "url" else ("model", index.models)
    return names[int(index.records[column][line_no])]
