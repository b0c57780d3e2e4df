"""The one form of a benchmark: its flags, its table, its JSON and its exit code.

A benchmark gives `run` a function that measures and returns a Report. The exit code says whether it could measure,
never whether a target was met: a slow machine is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import anonymous, machine, statistics

MEASURED = 0
COULD_NOT_MEASURE = 1
INTERRUPTED = 130
REDIRECTED_COLUMNS = 120
"""In a file or a pipe there is no width to fit, and a shortened figure's name is of no use."""

Plain = str | int | float | bool | None


class CouldNotMeasure(Exception):
    """There is no figure; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark is asked with. `extra` holds the flags that only one of them has."""

    benchmark: str
    command: str
    model: str | None = None
    upstream: str | None = None
    input: Path | None = None
    engine_args: tuple[str, ...] = ()
    quick: bool = False
    json_path: Path | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """`n` is the number of measurements that `value` summarises; `interval` is where 95 % of resampled medians fall."""

    value: float
    unit: str
    n: int
    interval: tuple[float, float] | None = None


def summarised(values: Sequence[float], unit: str) -> Figure:
    """The median of repeated measurements, with its bootstrap interval."""
    return Figure(statistics.median(values), unit, len(values), statistics.bootstrap_interval(values))


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing the work: what it ran on (`facts`: flags, cores) and what it did (`figures`)."""

    name: str
    facts: Mapping[str, Plain]
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Report:
    figures: Mapping[str, Figure]
    arms: Sequence[Arm] = ()
    notes: Sequence[str] = ()


Measure = Callable[[Options, Callable[[str], None]], Report]
"""Gets the options and a function that tells the person waiting what happens now."""

AddArguments = Callable[[argparse.ArgumentParser], object]


def split_engine_args(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take engine flags out of `argv`: `--engine-args "--a 1 --b"`, `--engine-args=...`, or all that follows `--`.

    argparse alone would read the value `--enforce-eager` as a flag of ours.
    """
    kept: list[str] = []
    engine: list[str] = []
    rest = list(argv)
    while rest:
        value = rest.pop(0)
        if value == "--":
            return kept, (*engine, *rest)
        if value == "--engine-args":
            if not rest:
                raise ValueError('--engine-args needs a value: --engine-args "--max-num-seqs 64"')
            engine += shlex.split(rest.pop(0))
        elif value.startswith("--engine-args="):
            engine += shlex.split(value.partition("=")[2])
        else:
            kept.append(value)
    return kept, tuple(engine)


def parse(name: str, description: str, argv: Sequence[str], add_arguments: AddArguments | None = None) -> Options:
    parser = argparse.ArgumentParser(prog=f"nightbatch bench {name}", description=description)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--model", metavar="ID", help="a Hugging Face id or a folder; default: the embedded model")
    target.add_argument("--upstream", metavar="URL", help="an OpenAI-compatible server that already runs (.../v1)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="a batch input file instead of the built-in one")
    parser.add_argument(
        "--engine-args", metavar='"FLAGS"', help="vLLM flags, the same for every arm (or write them after --)"
    )
    parser.add_argument("--quick", action="store_true", help="minutes instead of a thorough run; still true")
    parser.add_argument("--json", dest="json_path", type=Path, metavar="PATH", help="also write the report there")
    common = {action.dest for action in parser._actions}
    if add_arguments is not None:
        add_arguments(parser)
    try:
        kept, engine_args = split_engine_args(argv)
    except ValueError as error:
        parser.error(str(error))
    parsed = parser.parse_args(kept)
    if parsed.input is not None and not parsed.input.is_file():
        parser.error(f"--input {parsed.input}: no such file")
    return Options(
        benchmark=name,
        command=anonymous.command(name, argv),
        model=parsed.model,
        upstream=parsed.upstream,
        input=parsed.input,
        engine_args=engine_args,
        quick=parsed.quick,
        json_path=parsed.json_path,
        extra={key: value for key, value in vars(parsed).items() if key not in common},
    )


def as_json(options: Options, report: Report, *, facts: Mapping[str, object]) -> str:
    """The published form. `facts` are commit, machine, device and versions (see `environment`)."""
    document = {
        "benchmark": options.benchmark,
        **facts,
        "command": options.command,
        "quick": options.quick,
        "figures": {name: _figure(figure) for name, figure in report.figures.items()},
        "arms": [
            {
                "name": arm.name,
                "facts": dict(arm.facts),
                "figures": {name: _figure(figure) for name, figure in arm.figures.items()},
            }
            for arm in report.arms
        ],
        "notes": list(report.notes),
    }
    return anonymous.anonymous(json.dumps(document, indent=2, ensure_ascii=False)) + "\n"


def _figure(figure: Figure) -> dict[str, object]:
    plain = asdict(figure)
    if figure.interval is None:
        del plain["interval"]
    return plain


def environment() -> dict[str, object]:
    return {
        "commit": machine.commit(),
        "machine": machine.machine(),
        "device": machine.device(),
        "versions": machine.versions(),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _rows(table: Table, arm: str, figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        spread = "" if figure.interval is None else f"{_number(figure.interval[0])} to {_number(figure.interval[1])}"
        table.add_row(arm, name, _number(figure.value), figure.unit, str(figure.n), spread)


def show(console: Console, options: Options, report: Report) -> None:
    table = Table(title=f"nightbatch bench {options.benchmark}{' (quick)' if options.quick else ''}")
    for heading in ("arm", "figure", "value", "unit", "n", "95 % interval"):
        table.add_column(heading, justify="right" if heading in ("value", "n") else "left", no_wrap=True)
    _rows(table, "", report.figures)
    for arm in report.arms:
        table.add_section()
        _rows(table, arm.name, arm.figures)
    console.print(table)
    for arm in report.arms:
        console.print(
            f"{arm.name}: " + ", ".join(f"{key} {value}" for key, value in arm.facts.items()), highlight=False
        )
    for note in report.notes:
        console.print(note, highlight=False)


def run(
    argv: Sequence[str], *, name: str, description: str, measure: Measure, add_arguments: AddArguments | None = None
) -> int:
    options = parse(name, description, argv, add_arguments)
    progress = Console(stderr=True)
    try:
        report = measure(
            options, lambda text: progress.print(f"[dim]{anonymous.anonymous(text)}[/dim]", highlight=False)
        )
    except CouldNotMeasure as reason:
        print(f"benchmark {name} could not measure: {anonymous.anonymous(str(reason))}", file=sys.stderr)
        return COULD_NOT_MEASURE
    except KeyboardInterrupt:
        print(f"benchmark {name} was interrupted: no figures", file=sys.stderr)
        return INTERRUPTED
    console = Console()
    show(console if console.is_terminal else Console(width=REDIRECTED_COLUMNS), options, report)
    if options.json_path is not None:
        options.json_path.write_text(as_json(options, report, facts=environment()))
    return MEASURED
