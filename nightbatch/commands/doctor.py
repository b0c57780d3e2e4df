"""`nightbatch doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from nightbatch import exits
from nightbatch.commands.options import ConfigOption, JsonOption, UrlOption

if TYPE_CHECKING:
    from nightbatch.checks import Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
) -> None:
    """Look at configuration, disk, memory, cores, GPUs, ports, vLLM, models and the server.

    Exit code: 0 nothing is wrong (warnings may be), 1 something is.
    """
    findings: list[Finding] = []
    screen = Console(highlight=False)
    for finding in examine(config, url):
        findings.append(finding)
        if not as_json:
            _show(screen, finding)
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    if as_json:
        print(json.dumps([finding.plain() for finding in findings], indent=2))
    else:
        screen.print(f"\n{len(findings)} checks: {failed} failed, {warned} warnings", markup=False)
    raise typer.Exit(exits.SOME_FAILED if failed else exits.OK)


def examine(config_file: Path | None, url: str | None) -> Iterator[Finding]:
    from nightbatch.checks import machine, packages, service
    from nightbatch.checks.placement import placement
    from nightbatch.config import Config
    from nightbatch.target import Target

    yield packages.python()
    config, findings = service.configuration(config_file)
    yield from findings
    config = config or Config()
    models = config.served
    yield from machine.data_folder(config.store.folder, config.store.disk_reserve_mib)
    yield machine.memory()
    yield machine.gpus()
    yield from packages.engine(models)
    yield from packages.embedded(models)
    yield machine.cores()
    yield from placement(models)
    yield from service.upstreams(models)
    host = config.server.host
    local = f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{config.server.port}"  # noqa: S104
    yield service.server(Target.find(url, None).url if url else local, host, config.server.port)


def _show(screen: Console, finding: Finding) -> None:
    line = Text.assemble((f"{finding.level:<5}", STYLES[finding.level]), f"{finding.name:<15} {finding.says}")
    screen.print(line, soft_wrap=True)
    if finding.todo:
        screen.print(Text(f"{'':<20} -> {finding.todo}", style="bold"), soft_wrap=True)
