"""`nightbatch serve`: the server in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightbatch.commands.options import ConfigOption


def serve(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to load into vLLM: Hugging Face id, local folder or embedded name; repeatable."),
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="OpenAI-compatible server that does the work, as http://gpu1:8000/v1; repeatable."),
    ] = None,
    simulate: Annotated[
        list[str] | None, typer.Option(help="Simulated engine instead: cpu-135m or gpu-8b; repeatable.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (default 8000, 0: a free one).")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder (default ~/.local/share/nightbatch).")] = None,
    strict_openai: Annotated[
        bool, typer.Option("--strict-openai", help="OpenAI's own limits and rules in place of the wider ones.")
    ] = False,
    config: ConfigOption = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="-- VLLM_FLAGS", help="Any vLLM flag, for the one --model.")
    ] = None,
) -> None:
    """Start the server. Without a model it serves the two embedded ones, SmolLM2-135M-Instruct and all-MiniLM-L6-v2.

    nightbatch serve --model Qwen/Qwen3-8B -- --max-model-len 8192

    nightbatch serve --upstream http://gpu1:8000/v1 --upstream http://gpu2:8000/v1
    """
    from nightbatch.config import ServeFlags, find_file, load

    flags = ServeFlags(
        models=model or (),
        upstreams=upstream or (),
        simulate=simulate or (),
        engine_flags=vllm_flags or (),
        host=host,
        port=port,
        data=data,
        strict_openai=strict_openai or None,
        log_level=log_level,
    )
    settings = load(find_file(config), flags=flags)
    from nightbatch.serve import run_server

    raise typer.Exit(run_server(settings))
