"""`nightbatch validate FILE`: what a server would say of a batch input, before it is sent anywhere."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightbatch import exits
from nightbatch.commands.options import ConfigOption, JsonOption, KeyOption, connect, console, tabulator
from nightbatch.commands.progress import bar, mib

if TYPE_CHECKING:
    from nightbatch.inspection.counting import Counters
    from nightbatch.inspection.fixing import Fixed
    from nightbatch.inspection.served import Served
    from nightbatch.inspection.validating import Inspection, ServedOf
    from store.settings import StoreSettings

ASKED_NAMES_MAX = 100
"""Names that a server is asked for one by one: a file may hold a thousand."""


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
    from engine.tokens import TokenizerError
    from nightbatch.inspection.counting import Counters
    from nightbatch.inspection.fixing import FixRules, left_out_path, write_fixed
    from nightbatch.inspection.opening import InspectionError
    from nightbatch.inspection.report import failed, fixed_screen, for_programs, screen

    mapped = _pairs("--model-map", model_map)
    if fix is None and (mapped or rename_duplicates):
        raise exits.UsageError("--model-map and --rename-duplicates change the copy that --fix writes: give --fix OUT")
    if fix is not None and file.resolve() in (fix.resolve(), left_out_path(fix).resolve()):
        raise exits.UsageError(f"--fix {fix}: the copy would replace the file itself; name another")
    served_of, sources, settings = _served(config, url, api_key, model or [])
    aliases = {**mapped, **_pairs("--alias", alias)}
    counters = Counters(sources, tokenizer)

    def known(names: Sequence[str]) -> Served:
        return served_of(names).with_aliases(aliases)

    fixed: Fixed | None = None
    rest: Inspection | None = None
    try:
        if tokenizer is not None:
            counters.of(tokenizer)
        with tempfile.TemporaryDirectory(prefix="nightbatch-validate-") as name:
            folder = Path(name)
            plain = _plain(file, folder, settings)
            inspection = _inspect(plain, folder, known, settings, endpoint, counters, examples)
            if not as_json:
                tabulator().print(screen(inspection, file, explain=explain))
            if fix is not None:
                rules = FixRules(inspection.endpoint, mapped, rename_duplicates)
                size = plain.stat().st_size
                with bar(console(), "write") as report:
                    fixed = write_fixed(
                        plain,
                        inspection.index,
                        fix,
                        rules,
                        settings.line_bytes_max,
                        lambda done: report(done, size, ""),
                    )
                rest = _inspect(fix, folder, known, settings, endpoint, counters, examples)
                if not as_json:
                    tabulator().print("", fixed_screen(fixed), "", screen(rest, fix, explain=False), sep="\n")
    except (InspectionError, TokenizerError) as error:
        raise exits.UsageError(str(error)) from error
    except OSError as error:
        raise exits.UsageError(f"{error.filename or file}: {error.strerror or error}") from error
    for problem in counters.problems:
        console().print(f"estimated instead of counted: {problem}", markup=False)
    if as_json:
        print(json.dumps(for_programs(inspection, file, fixed, rest), indent=2))
    raise typer.Exit(exits.SOME_FAILED if failed(rest or inspection) else exits.OK)


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
    from nightbatch.models_known import of_config, of_names

    if url is not None and (models or config):
        raise exits.UsageError("--url asks a server what it serves: it does not go with --config or --model")
    found = None if url is not None else find_file(config)
    loaded = load(found)
    settings = store_settings(loaded)
    if url is not None:
        return _asking(url, api_key, settings)
    if models:
        served = of_names(models)
    elif found is not None:
        served = of_config(loaded, str(found))
    else:
        served = Served(None, origin="nothing: no configuration was found, and no model or server was named")
    return (lambda names: served), dict(served.sources), settings


def _asking(url: str, api_key: str | None, settings: StoreSettings) -> tuple[ServedOf, dict[str, str], StoreSettings]:
    from nightbatch.client import ClientError
    from nightbatch.models_known import of_server

    client = connect(url, api_key)
    served = of_server(client.models(), client.target.url)

    def ask(names: Sequence[str]) -> Served:
        """The server's list has no aliases: it is asked for every name that is not in it."""
        aliases = {}
        for name in [name for name in names if name not in served.by_id][:ASKED_NAMES_MAX]:
            try:
                aliases[name] = client.model(name).id
            except ClientError as error:
                if error.unreachable:
                    raise
        return served.with_aliases(aliases)

    return ask, dict(served.sources), settings


def _plain(file: Path, folder: Path, settings: StoreSettings) -> Path:
    from nightbatch.inspection.opening import compression_of, unpack

    compression = compression_of(file)
    if compression is None:
        return file
    plain, size = folder / "unpacked.jsonl", file.stat().st_size
    with bar(console(), "unpack") as report:
        unpack(file, compression, plain, settings.upload_bytes_max, lambda done: report(done, size, mib(done)))
    return plain


def _inspect(
    path: Path,
    folder: Path,
    served_of: ServedOf,
    settings: StoreSettings,
    endpoint: str | None,
    counters: Counters,
    examples: int,
) -> Inspection:
    from nightbatch.inspection.validating import inspect

    with bar(console(), "validate") as report:
        return asyncio.run(
            inspect(
                path,
                folder,
                served_of,
                settings=settings,
                endpoint=endpoint,
                counters=counters,
                examples_max=examples,
                progress=lambda step, done, total: report(done, total, step),
            )
        )
