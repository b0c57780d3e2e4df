"""`nightbatch compare OURS THEIRS`: how far two sets of results of the same requests agree."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import JsonOption, console, tabulator
from nightbatch.commands.progress import bar, mib

if TYPE_CHECKING:
    from nightbatch.inspection.results.comparison import Comparison
    from nightbatch.inspection.results.joining import Joined, ResultFile

UNPACKED_BYTES_MAX = 64 * 1024**3
REPORT_PAIRS = 1000
"""How often progress is told."""


def compare(
    ours: Annotated[Path, typer.Argument(help="Results of one side: an output file, JSONL or that as .gz or .zst.")],
    theirs: Annotated[Path, typer.Argument(help="Results of the other side to the same requests.")],
    field: Annotated[
        str | None, typer.Option("--field", metavar="A.B", help="Look at this field of JSON answers alone.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIFF", help="Write every difference as JSONL.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=1000, help="Differences shown.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Join two result files on custom_id and measure how far they agree.

    Exit code: 0 it was measured, whatever came out; 2 it could not be: no file, or nothing in common.
    """
    from nightbatch.inspection.opening import InspectionError
    from nightbatch.inspection.results.comparison import Comparison
    from nightbatch.inspection.results.joining import join
    from nightbatch.inspection.results.report import for_programs, screen

    if out is not None and out.resolve() in (ours.resolve(), theirs.resolve()):
        raise exits.UsageError(f"--out {out}: the differences would replace a file that is compared")
    try:
        with tempfile.TemporaryDirectory(prefix="nightbatch-compare-") as folder:
            joined = join(_indexed(ours, Path(folder), "ours"), _indexed(theirs, Path(folder), "theirs"))
            if joined.count == 0:
                raise exits.UsageError(_nothing_in_common(joined))
            found = Comparison(only_field=field, examples_max=examples)
            _measure(joined, found, out)
            if as_json:
                print(json.dumps(for_programs(joined, found), indent=2))
            else:
                tabulator().print(screen(joined, found))
    except InspectionError as error:
        raise exits.UsageError(str(error)) from error
    except OSError as error:
        raise exits.UsageError(f"{error.filename or ours}: {error.strerror or error}") from error


def _indexed(path: Path, folder: Path, name: str) -> ResultFile:
    from nightbatch.inspection.opening import compression_of, unpack
    from nightbatch.inspection.results.joining import index_results

    compression = compression_of(path)
    plain = path
    with bar(console(), name) as report:
        if compression is not None:
            plain, size = folder / f"{name}.jsonl", path.stat().st_size
            unpack(path, compression, plain, UNPACKED_BYTES_MAX, lambda done: report(done, size, "unpack"))
        size = plain.stat().st_size
        return index_results(plain, lambda done: report(done, size, mib(done)))


def _nothing_in_common(joined: Joined) -> str:
    for side in (joined.ours, joined.theirs):
        if side.count == 0:
            why = f": line {side.faults[0][0]}: {side.faults[0][1]}" if side.faults else ""
            return f"{side.path}: no result with a custom_id in it{why}"
    mine, yours = joined.ids_of(joined.ours, joined.only_ours), joined.ids_of(joined.theirs, joined.only_theirs)
    return f"no custom_id is in both files: ours has {mine[0]!r}, theirs {yours[0]!r}; are they of the same requests?"


def _measure(joined: Joined, found: Comparison, out: Path | None) -> None:
    import msgspec

    from nightbatch.inspection.results.answers import NotAResult
    from nightbatch.inspection.results.report import plain_difference

    faulty: NotAResult | None = None
    measured = 0
    with ExitStack() as stack:
        report = stack.enter_context(bar(console(), "compare"))
        differences = stack.enter_context(out.open("wb")) if out is not None else None
        for done, pair in enumerate(joined.read_pairs(), start=1):
            if isinstance(pair, NotAResult):
                faulty = faulty or pair
            else:
                measured += 1
                difference = found.add(*pair)
                if difference is not None and differences is not None:
                    differences.write(msgspec.json.encode(plain_difference(difference)) + b"\n")
            if done % REPORT_PAIRS == 0 or done == joined.count:
                report(done, joined.count, "")
    if not measured:
        raise exits.UsageError(f"none of the {joined.count:,} lines in both files is a result: {faulty}")
