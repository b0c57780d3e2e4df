"""The main job from end to end for someone who has just installed: two real batches through the openai package."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from openai.types import Batch
from rich.console import Console

from nightbatch import exits
from nightbatch.child_server import ChildServer, free_port, running
from nightbatch.client import Client
from nightbatch.commands.progress import Report, bars
from nightbatch.commands.submit import first_url
from nightbatch.config import EMBEDDED
from nightbatch.exactly_once import Comparison, compare
from nightbatch.following import done, follow, total
from nightbatch.outcome import Downloads, download, exit_code, refusals, summary
from nightbatch.target import Target

INPUTS = ("banking77.jsonl", "embeddings.jsonl")
RESULTS_SHOWN = 5
TEXT_CHARS_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Done:
    """One batch, over and checked."""

    name: str
    source: Path
    batch: Batch
    files: Downloads
    run_seconds: float
    comparison: Comparison

    @property
    def good(self) -> bool:
        return exit_code(self.batch) == exits.OK and self.comparison.exact


def run(screen: Console, *, results: Path, data: Path, simulated: bool) -> int:
    """0 only if every line of both inputs succeeded and every custom_id came back exactly once."""
    started = time.monotonic()
    inputs = [examples_folder() / name for name in INPUTS]
    data.mkdir(parents=True, exist_ok=True)
    config = data / "demo.toml"
    config.write_text(config_text(simulated), encoding="utf-8")
    arguments = ["--config", str(config), "--data", str(data)]
    server = ChildServer(arguments, port=free_port(), log=data / "server.log")
    screen.print(f"starting the server ({server.log})", markup=False)
    with running(server):
        with bars(screen, ["start"]) as (report,):
            server.wait_ready(lambda line: report(0, 0, line[:TEXT_CHARS_SHOWN]))
            report(1, 1, f"ready at {server.url}")
        clear(results)
        finished = run_batches(screen, Client(Target(server.url)), inputs, results)
        screen.print("stopping the server", markup=False)
    for one in finished:
        show(screen, one)
    good = all(one.good for one in finished)
    verdict = "done" if good else "not everything came back as it should"
    screen.print(f"\n{verdict}, in {time.monotonic() - started:.0f} s. Results: {results}/", markup=False)
    return exits.OK if good else exits.SOME_FAILED


def clear(results: Path) -> None:
    """Only what an earlier demo left: the folder is the user's."""
    for name in INPUTS:
        for old in (results / Path(name).stem).glob("batch_*.jsonl"):
            old.unlink()


def examples_folder() -> Path:
    """Beside this package in a checkout, inside `benchmarks` in an installed one."""
    spec = find_spec("benchmarks")
    inside = [Path(place) / "examples" for place in (spec.submodule_search_locations or [])] if spec else []
    for place in (Path(__file__).resolve().parent.parent / "examples", *inside):
        if all((place / name).is_file() for name in INPUTS):
            return place
    raise exits.UsageError("the example inputs are missing from this installation: install nightbatch again")


def config_text(simulated: bool) -> str:
    """The embedded models, or the simulated engine under their names."""
    logging = '[logging]\nformat = "text"\n'
    if not simulated:
        return logging
    return logging + "".join(
        f'[[models]]\nid = "{model.id}"\nkind = "{model.kind}"\nengine = "simulated"\nprofile = "cpu-135m"\n'
        for model in EMBEDDED
    )


def run_batches(screen: Console, client: Client, inputs: list[Path], results: Path) -> list[Done]:
    """All at once: the batches share the server as they would in real life."""
    with (
        bars(screen, [path.stem for path in inputs]) as reports,
        ThreadPoolExecutor(len(inputs), thread_name_prefix="batch") as threads,
    ):
        jobs = [
            threads.submit(run_batch, client, path, results / path.stem, report)
            for path, report in zip(inputs, reports, strict=True)
        ]
        return [job.result() for job in jobs]


def run_batch(client: Client, source: Path, results: Path, report: Report) -> Done:
    size = source.stat().st_size
    file = client.upload(source, lambda sent: report(sent, size, "upload")).file
    batch = client.create(file.id, endpoint=first_url(source), window="24h", metadata={"demo": source.stem})
    started = time.monotonic()
    ended = follow(client.batch, batch, lambda seen, note: report(done(seen), total(seen), note) if seen else None)
    run_seconds = time.monotonic() - started
    files = download(client, ended, results, lambda _: None)
    came = [path for path in (files.output, files.errors) if path]
    return Done(source.stem, source, ended, files, run_seconds, compare(source, came))


def show(screen: Console, one: Done) -> None:
    screen.print(f"\n{one.name}: {summary(one.batch, one.run_seconds)}", markup=False)
    screen.print(f"  {one.comparison.says()}", markup=False)
    for line in refusals(one.batch):
        screen.print(f"  {line}", markup=False)
    for path in (one.files.output, one.files.errors):
        if path:
            screen.print(f"  {path}", markup=False)
            for line in samples(path, one.source):
                screen.print(f"    {line}", markup=False)


def samples(path: Path, source: Path) -> Iterator[str]:
    """The first few results: what was asked, what came."""
    asked = {}
    with source.open("rb") as lines:
        for line in lines:
            request = json.loads(line)
            asked[request["custom_id"]] = request["body"]
    with path.open("rb") as lines:
        for _, line in zip(range(RESULTS_SHOWN), lines, strict=False):
            result = json.loads(line)
            yield f"{question(asked.get(result['custom_id'], {})):<{TEXT_CHARS_SHOWN}}  {answer(result)}"


def question(body: dict[str, object]) -> str:
    messages = body.get("messages")
    text = str(messages[-1]["content"]) if isinstance(messages, list) else str(body.get("input", ""))
    return text if len(text) <= TEXT_CHARS_SHOWN else text[: TEXT_CHARS_SHOWN - 3] + "..."


def answer(result: dict[str, object]) -> str:
    response = result.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(body, dict) and body.get("choices"):
        return " ".join(str(body["choices"][0]["message"]["content"]).split())
    if isinstance(body, dict) and body.get("data"):
        vector = body["data"][0]["embedding"]
        return f"{len(vector)} numbers: {', '.join(f'{value:.3g}' for value in vector[:3])}, ..."
    return json.dumps(result.get("error") or body)[:200]
