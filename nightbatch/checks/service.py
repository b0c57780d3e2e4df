"""Configuration, ports, servers: ours and the upstreams."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from nightbatch.checks import Finding, fail, ok, warn
from nightbatch.checks.machine import port_is_free
from nightbatch.config import Config, ConfigError, ModelConfig, find_file, load

ANSWER_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 1 << 20


def configuration(given: Path | None) -> tuple[Config | None, list[Finding]]:
    """The configuration that `nightbatch serve` would use without flags, or why there is none."""
    try:
        file = find_file(given)
        config = load(file)
    except ConfigError as error:
        return None, [fail("config", problem, "docs/configuration.md has every key") for problem in error.problems]
    return config, [ok("config", str(file) if file else "no file: built-in defaults"), *_advice(config)]


def _advice(config: Config) -> Iterator[Finding]:
    if not config.tenants and config.server.host not in {"127.0.0.1", "::1", "localhost"}:
        says = f"listens on {config.server.host} and asks for no API key"
        yield warn("tenants", says, "add [[tenants]], or listen on 127.0.0.1")


def server(url: str, host: str, port: int) -> Finding:
    """Is one running there, and if not, could one?"""
    found = fetch(f"{url}/readyz")
    if found is not None:
        status, text = found
        if status == 200:
            return ok("server", f"{url} is ready")
        return warn("server", f"{url} answers {status}: {text[:200].strip()}", "wait for its models, or see its log")
    if port and not port_is_free(host, port):
        todo = "stop that program, or choose another port: --port or [server] port"
        return fail("port", f"{host}:{port} is taken by something that does not answer as Nightbatch", todo)
    return ok("server", f"none at {url}; {host}:{port} is free for one")


def upstreams(models: Sequence[ModelConfig]) -> Iterator[Finding]:
    for model in models:
        key = os.environ.get(model.api_key_env) if model.api_key_env else None
        if model.api_key_env and not key:
            yield fail("upstream", f"{model.api_key_env} is not set", "export it before serve")
        for url in model.upstreams:
            yield _upstream(url, key)


def _upstream(url: str, key: str | None) -> Finding:
    base = url if url.endswith("/v1") else f"{url}/v1"
    found = fetch(f"{base}/models", key)
    if found is None:
        return fail("upstream", f"{url} does not answer", "start it, or take it out: its work waits or goes elsewhere")
    status, text = found
    if status != 200:
        return fail("upstream", f"{url} answers {status} to /models", "check the URL, and api_key_env for its key")
    try:
        ids = [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError):
        return fail("upstream", f"{url} has no list of models", "is it an OpenAI-compatible server?")
    return ok("upstream", f"{url} serves {', '.join(ids)}")


def fetch(url: str, key: str | None = None) -> tuple[int, str] | None:
    """Status and body, or None when nothing answers."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (http and https only: the config says so)
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS_MAX) as answer:  # noqa: S310
            return answer.status, answer.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except (OSError, ValueError):
        return None
