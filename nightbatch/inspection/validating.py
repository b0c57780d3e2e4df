"""A whole batch input, looked into once: what `nightbatch validate` knows of it.

Three looks at one file, each at constant memory but for a fixed record a line: the server's own index (in the server's
own worker process, beside us), the fields of every body, and the prompts that may be too long.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from engine.protocol import GENERATE_ENDPOINTS, POOLING_ENDPOINTS
from nightbatch.inspection.bodies import BodyInspector
from nightbatch.inspection.contexts import judge_contexts
from nightbatch.inspection.counting import Counters
from nightbatch.inspection.findings import EXAMPLES_MAX, Findings
from nightbatch.inspection.scanning import Framing, judge, read_lines
from nightbatch.inspection.served import Served
from nightbatch.inspection.verdicts import build_index, judge_lines, pairs_of
from scheduler.policy.validation import normal_url
from store.index import LineIndex
from store.settings import StoreSettings

SECRET_BYTES: Final = 32

ServedOf = Callable[[Sequence[str]], Served]
"""What is served, for the model names of a file: a server is asked for each name that it does not list."""

Progress = Callable[[str, int, int], None]
"""what is being done, how much of it, of how much."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """`lines` are the requests; `refused` those that make the server refuse the batch, `failing` those and the ones
    that an engine would refuse. `missing` are model names that nothing serves."""

    lines: int
    framing: Framing
    endpoint: str
    urls: Mapping[str, int]
    models: Mapping[str, int]
    findings: Findings
    refused: int
    failing: int
    served: Served
    missing: tuple[str, ...]
    prompt_bytes: int
    output_tokens: int
    sub_requests: int
    index: LineIndex = field(repr=False)


async def inspect(
    path: Path,
    folder: Path,
    served_of: ServedOf,
    *,
    settings: StoreSettings,
    endpoint: str | None = None,
    counters: Counters | None = None,
    examples_max: int = EXAMPLES_MAX,
    progress: Progress = lambda what, done, total: None,
) -> Inspection:
    """Look into an uncompressed file. `folder` holds the index while the answer is used."""
    findings = Findings(examples_max)
    given_up = threading.Event()

    def tell(what: str, done: int, total: int) -> None:
        """A thread cannot be cancelled: it ends itself where it says how far it is."""
        if given_up.is_set():
            raise _GivenUp
        progress(what, done, total)

    indexing = asyncio.create_task(
        build_index(path, folder / f"{path.name}.index", settings, secrets.token_bytes(SECRET_BYTES))
    )
    try:
        scan = await asyncio.to_thread(_scan, path, settings.line_bytes_max, findings, tell)
        index = await indexing
        return await asyncio.to_thread(
            _conclude, index, path, scan, endpoint, served_of, counters or Counters({}), findings, tell
        )
    finally:
        given_up.set()
        indexing.cancel()


class _GivenUp(Exception):
    """Nobody waits for the answer any more."""


def _scan(path: Path, line_bytes_max: int, findings: Findings, progress: Progress) -> tuple[Framing, array[int]]:
    """How the lines stand, and which of them hold a field that an engine refuses."""
    framing, size = Framing(), path.stat().st_size
    inspector = BodyInspector(findings)
    look = inspector.look
    for line, raw in read_lines(path, line_bytes_max, framing, lambda done: progress("reading", done, size)):
        look(raw, line)
    judge(framing, findings)
    return framing, inspector.refused_lines


def _conclude(
    index: LineIndex,
    path: Path,
    scan: tuple[Framing, array[int]],
    endpoint: str | None,
    served_of: ServedOf,
    counters: Counters,
    findings: Findings,
    progress: Progress,
) -> Inspection:
    framing, with_refused_fields = scan
    chosen = endpoint or (index.urls[0] if index.urls else "")
    served = served_of(index.models)
    known = served.for_names(index.models)
    refused = judge_lines(index, path, chosen, known, findings)
    if chosen and normal_url(chosen) not in GENERATE_ENDPOINTS | POOLING_ENDPOINTS:
        findings.add("endpoint_unsupported", 0, f"the lines name {chosen}")
        refused[:] = True
    failing = refused | judge_contexts(
        index, path, known, counters, findings, lambda done, total: progress("counting tokens", done, total)
    )
    failing |= np.isin(index.records["line"], np.frombuffer(with_refused_fields, np.uint32))
    models, urls = _counts(index)
    if len(models) > 1:
        findings.add("mixed_models", 0, f"{len(models)} models", count=index.count)
    if served.models is None and models:
        findings.add("models_unchecked", 0, served.origin, count=index.count)
    records = index.records
    return Inspection(
        lines=index.count,
        framing=framing,
        endpoint=chosen,
        urls=urls,
        models=models,
        findings=findings,
        refused=int(np.count_nonzero(refused)),
        failing=int(np.count_nonzero(failing)),
        served=served,
        missing=tuple(name for name in models if known.resolve(name) is None),
        prompt_bytes=index.header.prompt_bytes,
        output_tokens=int((records["output_tokens"].astype(np.uint64) * records["sub_requests"]).sum()),
        sub_requests=index.header.sub_requests,
        index=index,
    )


def _counts(index: LineIndex) -> tuple[dict[str, int], dict[str, int]]:
    """How many well-formed lines name each model and each url, in the order of first use."""
    models, urls = dict.fromkeys(index.models, 0), dict.fromkeys(index.urls, 0)
    for lines, url, model in pairs_of(index):
        models[index.models[model]] += len(lines)
        urls[index.urls[url]] += len(lines)
    return {name: count for name, count in models.items() if count}, {
        url: count for url, count in urls.items() if count
    }
