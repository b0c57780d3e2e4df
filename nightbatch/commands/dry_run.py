"""`nightbatch submit FILE --dry-run N`: a few lines as a batch of their own, and what they say of the whole file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from nightbatch import exits
from nightbatch.commands.options import printer
from nightbatch.commands.progress import seconds
from nightbatch.dry_run import Estimate, Picked, Sample, project, sample

if TYPE_CHECKING:
    from openai.types import Batch

    from nightbatch.client import Client
    from nightbatch.inspection.results.answers import Answer

METADATA_KEY = "nightbatch_dry_run"
TEXT_CHARS_MAX = 2_000
UNPACKED_BYTES_MAX = 64 * 1024**3

Run = Callable[[Path, Mapping[str, str]], tuple["Batch", float | None]]
"""Runs a file with further metadata to its end; how long it ran, None when it had to wait meanwhile."""


def dry_run(client: Client, file: Path, count: int, run: Run) -> int:
    """Print the answers of some lines and a projection for the whole file; the exit code, as for submit --wait."""
    from nightbatch.outcome import exit_code, summary

    out = printer()
    with tempfile.TemporaryDirectory(prefix="nightbatch-dry-run-") as name:
        folder = Path(name)
        chosen = _sample(file, count, folder)
        source = folder / f"{file.name.split('.')[0]}-dry-run.jsonl"
        source.write_bytes(b"".join(line.raw + b"\n" for line in chosen.picked))
        batch, run_seconds = run(source, {METADATA_KEY: f"{len(chosen.picked)} of {chosen.lines} lines"})
        answers = _answers(client, batch, folder)
    for line in chosen.picked:
        _show(out, line, answers.get(line.custom_id or ""))
    out.print(summary(batch, run_seconds), markup=False)
    for text in refusals(batch, chosen.picked):
        out.print(f"  {text}", markup=False)
    if answers:
        for text in projection(chosen, [answers.get(line.custom_id or "") for line in chosen.picked], run_seconds):
            out.print(text, markup=False)
    out.print(f"nothing else was submitted; the whole file: nightbatch submit {file}", markup=False)
    return exit_code(batch)


def _sample(file: Path, count: int, folder: Path) -> Sample:
    from nightbatch.inspection.opening import InspectionError, compression_of, unpack

    try:
        if compression := compression_of(file):
            plain = folder / "unpacked.jsonl"
            unpack(file, compression, plain, UNPACKED_BYTES_MAX, lambda _: None)
            chosen = sample(plain, count)
            plain.unlink()
        else:
            chosen = sample(file, count)
    except InspectionError as error:
        raise exits.UsageError(str(error)) from error
    except OSError as error:
        raise exits.UsageError(f"{file}: {error.strerror or error}") from error
    if not chosen.picked:
        raise exits.UsageError(f"{file}: there is no line in it")
    return chosen


def _answers(client: Client, batch: Batch, folder: Path) -> dict[str, Answer]:
    from nightbatch.inspection.results.answers import NotAResult, answer_of
    from nightbatch.outcome import download

    if batch.status == "failed":
        return {}  # its error file lists what was wrong with lines, none of which ran
    files = download(client, batch, folder / "results", lambda _: None)
    found = {}
    for path in (files.output, files.errors):
        for raw in path.read_bytes().splitlines() if path else ():
            try:
                answer = answer_of(raw)
            except NotAResult:
                continue
            found[answer.custom_id] = answer
    return found


def _show(out: Console, line: Picked, answer: Answer | None) -> None:
    head = f"line {line.number:,} ({line.custom_id})"
    if answer is None:
        out.print(f"{head}: no answer", markup=False)
        return
    if answer.error is not None:
        out.print(f"{head}: failed, {answer.error}", markup=False)
        return
    notes = [f"{answer.prompt_tokens:,} tokens in", f"{answer.output_tokens:,} out", answer.finish_reason]
    out.print(f"{head}: {', '.join(note for note in notes if note)}", markup=False)
    for text in said(answer).splitlines():
        out.print(f"    {text}", markup=False, highlight=False)


def said(answer: Answer) -> str:
    """What was answered, for people."""
    if answer.vectors:
        text = f"{len(answer.vectors)} vectors of {len(answer.vectors[0])} numbers"
    elif answer.text or answer.calls:
        text = "\n".join(part for part in (answer.text, *answer.calls) if part)
    else:
        text = json.dumps(answer.body, ensure_ascii=False) if answer.body is not None else "(an empty answer)"
    more = len(text) - TEXT_CHARS_MAX
    return text if more <= 0 else f"{text[:TEXT_CHARS_MAX]}\n... and {more:,} characters more"


def refusals(batch: Batch, picked: Sequence[Picked]) -> list[str]:
    """Why the lines were refused, with the numbers that they have in the whole file."""
    errors = (batch.errors.data if batch.errors else None) or []
    return [
        (f"line {picked[error.line - 1].number:,}: " if error.line and error.line <= len(picked) else "")
        + f"{error.code}: {error.message}"
        for error in errors
    ]


def projection(chosen: Sample, answers: Sequence[Answer | None], run_seconds: float | None) -> Iterator[str]:
    """Lines that failed count with no tokens: so they would in the whole file."""
    from nightbatch.inspection.results.agreement import wilson

    count = len(chosen.picked)
    share = "all of them ran" if count == chosen.lines else f"95 % intervals from {count:,} of them"
    yield f"projection for the whole file, {chosen.lines:,} lines ({share}):"
    read = [answer.prompt_tokens if answer else 0 for answer in answers]
    written = [answer.output_tokens if answer else 0 for answer in answers]
    sizes = [len(line.raw) + 1 for line in chosen.picked]
    yield f"  tokens in   {shown(project(read, chosen.lines, sizes, chosen.bytes))}"
    yield f"  tokens out  {shown(project(written, chosen.lines))}"
    failed = sum(answer is None or answer.error is not None for answer in answers)
    low, high = wilson(failed, count)
    if count < chosen.lines:
        low, high = max(low * chosen.lines, failed), min(high * chosen.lines, chosen.lines - count + failed)
        yield f"  failing     {failed:,} of {count:,} failed here: {low:,.0f} to {high:,.0f} lines of the file"
    if run_seconds is None:
        yield "  time        not measured: these lines had to wait for their turn"
    else:
        yield (
            f"  time        {seconds(run_seconds / count * chosen.lines)} at the rate of these {count:,} lines; "
            "usually less, as more lines run at once, and more beside other batches"
        )
    if count < chosen.lines:
        yield "  Rare lines that are unlike these (very long ones, say) are not foreseen; a larger N sees more of them."


def shown(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.total:,} (from one line: how far off cannot be said)"
    if estimate.low == estimate.high:
        return f"{estimate.total:,}"
    return f"{estimate.total:,} ({estimate.low:,} to {estimate.high:,})"
