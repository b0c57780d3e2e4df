"""`nightbatch validate FILE`: what a server would say of a batch input, before it is sent anywhere."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import ConfigOption, JsonOption, KeyOption, connect, console, tabulator
from nightbatch.commands.progress import bar, mib

if TYPE_CHECKING:
    from nightbatch.inspection.counting import Counters
    from nightbatch.inspection.fixing import Fixed
    from nightbatch.inspection.validating import Inspection, ServedOf
    from store.settings import StoreSettings


def validate(
    file: Annotated[Path, typer.Argument(help="Batch input: JSONL, or that as .gz or .zst.")],
    explain: Annotated[bool, typer.Option("--explain", help="Say what each finding means and what to do.")] = False,
    fix: Annotated[Path | None, typer.Option("--fix", metavar="OUT", help="Write a cleaned copy.")] = None,
    rename_duplicates: Annotated[
        bool, typer.Option("--rename-duplicates", help="With --fix: keep repeated custom_ids, renamed.")
    ] = False,
    model_map: Annotated[
        list[str] | None, typer.Option("--model-map", metavar="OLD=NEW", help="With --fix: write another model.")
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option("--alias", metavar="NAME=MODEL", help="As if it were under [aliases].")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model that is served: id or folder; repeatable.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="Endpoint of all lines. Default: the first line's url.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Count with this tokenizer: a folder, Hugging Face id or embedded model.")
    ] = None,
    examples: Annotated[int, typer.Option(min=1, max=1000, help="Lines shown of each kind.")] = 5,
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Ask this server for its models. Without: no server is needed.")
    ] = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a batch input, and what an engine would make of it.

    Exit code: 0 no line would fail, 1 some would (with --fix: of the cleaned copy), 2 the file cannot be looked into.
    """
    mapped = _pairs("--model-map", model_map)
    _check_fix(file, fix, changes=bool(mapped) or rename_duplicates)
    served_of, sources, settings = _served(config, url, api_key, model or [])
    aliases = {**mapped, **_pairs("--alias", alias)}
    look = _Look(
        served_of=lambda names: served_of(names).with_aliases(aliases),
        settings=settings,
        counters=_counters(sources, tokenizer),
        endpoint=endpoint,
        examples_max=examples,
    )
    with _plain_errors(file), tempfile.TemporaryDirectory(prefix="nightbatch-validate-") as folder:
        plain = _plain(file, Path(folder), settings)
        found = look.at(plain, Path(folder))
        if not as_json:
            _show(found, file, explain=explain)
        fixed = rest = None
        if fix is not None:
            fixed = _fix(plain, found, fix, mapped, rename_duplicates, settings)
            rest = look.at(fix, Path(folder))
            if not as_json:
                _show_fixed(fixed, rest)
        if as_json:
            _print_json(found, file, fixed, rest)
    for problem in look.counters.problems:
        console().print(f"estimated instead of counted: {problem}", markup=False)
    raise typer.Exit(_exit_code(rest or found))


@dataclass(frozen=True, slots=True)
class _Look:
    """How files are looked into: the input, then its cleaned copy."""

    served_of: ServedOf
    settings: StoreSettings
    counters: Counters
    endpoint: str | None
    examples_max: int

    def at(self, path: Path, folder: Path) -> Inspection:
        from nightbatch.inspection.validating import inspect

        with bar(console(), "validate") as report:
            return asyncio.run(
                inspect(
                    path,
                    folder,
                    self.served_of,
                    settings=self.settings,
                    endpoint=self.endpoint,
                    counters=self.counters,
                    examples_max=self.examples_max,
                    progress=lambda step, done, total: report(done, total, step),
                )
            )


@contextmanager
def _plain_errors(file: Path) -> Iterator[None]:
    from nightbatch.inspection.opening import InspectionError

    try:
        yield
    except InspectionError as error:
        raise exits.UsageError(str(error)) from error
    except OSError as error:
        raise exits.UsageError(f"{error.filename or file}: {error.strerror or error}") from error


def _show(found: Inspection, file: Path, *, explain: bool) -> None:
    from nightbatch.inspection.report import screen

    tabulator().print(screen(found, file, explain=explain))


def _show_fixed(fixed: Fixed, rest: Inspection) -> None:
    from nightbatch.inspection.report import fixed_screen, screen

    tabulator().print("", fixed_screen(fixed), "", screen(rest, fixed.path, explain=False), sep="\n")


def _print_json(found: Inspection, file: Path, fixed: Fixed | None, rest: Inspection | None) -> None:
    from nightbatch.inspection.report import for_programs

    print(json.dumps(for_programs(found, file, fixed, rest), indent=2))


def _exit_code(found: Inspection) -> int:
    from nightbatch.inspection.report import failed

    return exits.SOME_FAILED if failed(found) else exits.OK


def _check_fix(file: Path, fix: Path | None, *, changes: bool) -> None:
    from nightbatch.inspection.fixing import left_out_path

    if fix is None and changes:
        raise exits.UsageError("--model-map and --rename-duplicates change the copy that --fix writes: give --fix OUT")
    if fix is not None and file.resolve() in (fix.resolve(), left_out_path(fix).resolve()):
        raise exits.UsageError(f"--fix {fix}: the copy would replace the file itself; name another")


def _fix(
    plain: Path, found: Inspection, out: Path, models: dict[str, str], rename_duplicates: bool, settings: StoreSettings
) -> Fixed:
    from nightbatch.inspection.fixing import FixRules, write_fixed

    rules, size = FixRules(found.endpoint, models, rename_duplicates), plain.stat().st_size
    with bar(console(), "write") as report:
        return write_fixed(
            plain, found.index, out, rules, settings.line_bytes_max, lambda done: report(done, size, mib(done))
        )


def _counters(sources: dict[str, str], chosen: str | None) -> Counters:
    """A tokenizer that was named is opened at once: what is wrong with it should be said before anything else."""
    from engine.tokens import TokenizerError
    from nightbatch.inspection.counting import Counters

    counters = Counters(sources, chosen)
    try:
        if chosen is not None:
            counters.of(chosen)
    except TokenizerError as error:
        raise exits.UsageError(str(error)) from error
    return counters


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given or []]
    wrong = next((name for name, _, target in pairs if not name or not target), None)
    if wrong is not None:
        raise exits.UsageError(f"{option} {wrong}: write it as NAME=MODEL")
    return {name: target for name, _, target in pairs}


def _served(
    config: Path | None, url: str | None, api_key: str | None, models: list[str]
) -> tuple[ServedOf, dict[str, str], StoreSettings]:
    """Whom to hold the file to, where the tokenizers of its models are, and the limits that count."""
    from nightbatch.compose import store_settings
    from nightbatch.config import find_file, load
    from nightbatch.inspection.served import Served
    from nightbatch.models_known import of_asked_server, of_config, of_names

    if url is not None and (models or config):
        raise exits.UsageError("--url asks a server what it serves: it does not go with --config or --model")
    found = None if url is not None else find_file(config)
    loaded = load(found)
    settings = store_settings(loaded)
    if url is not None:
        ask, sources = of_asked_server(connect(url, api_key))
        return ask, sources, settings
    if models:
        served = of_names(models)
    elif found is not None:
        served = of_config(loaded, str(found))
    else:
        served = Served(None, origin="nothing: no configuration was found, and no model or server was named")
    return (lambda names: served), dict(served.sources), settings


def _plain(file: Path, folder: Path, settings: StoreSettings) -> Path:
    from nightbatch.inspection.opening import compression_of, unpack

    compression = compression_of(file)
    if compression is None:
        return file
    plain, size = folder / "unpacked.jsonl", file.stat().st_size
    with bar(console(), "unpack") as report:
        unpack(file, compression, plain, settings.upload_bytes_max, lambda done: report(done, size, mib(done)))
    return plain
