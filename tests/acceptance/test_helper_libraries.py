"""Packages that people put around the batch API, unmodified: `batch-openai`, `openai-batch` and LiteLLM.

Each runs in an environment of its own, with the `openai` of the generation before ours (its transport is another one).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.clients import LOCKS, run
from tests.support.process import ServerProcess


def settings(server: ServerProcess) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "none"}


def test_batch_openai_submits_waits_parses_and_resumes(
    helpers_python: Path, two_models: ServerProcess, tmp_path: Path
) -> None:
    seen = run(
        [helpers_python, LOCKS / "batch_openai_round.py", "sim"], folder=tmp_path, environment=settings(two_models)
    )
    assert seen.pop("batch").startswith("batch_")
    assert "failed" in seen.pop("refused")
    assert set(seen.pop("labels")) <= {"a", "b"}
    assert seen == {
        "succeeded": [f"doc-{number}" for number in range(20)],
        "failed": {"too-long": "context_length_exceeded"},
        "joined": True,
        "description": "twenty questions",
        "status": "completed",
        "tracked": True,
        "progress": 21,
        "asynchronous": [f"doc-{number}" for number in range(100, 105)],
    }


def test_the_command_of_batch_openai_shows_and_downloads_a_batch(
    helpers_python: Path, two_models: ServerProcess, tmp_path: Path
) -> None:
    environment = settings(two_models)
    batch = run([helpers_python, LOCKS / "batch_openai_round.py", "sim"], folder=tmp_path, environment=environment)
    command = [str(helpers_python.parent / "batch-openai"), "--registry", str(tmp_path / "registry")]

    def says(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "21 total, 20 completed, 1 failed" in says("status", batch["batch"])
    says("download", batch["batch"], "--output", "results.jsonl")
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 21


def test_openai_batch_runs_chats_embeddings_and_scores_and_resumes(
    helpers_python: Path, two_models: ServerProcess, tmp_path: Path
) -> None:
    seen = run(
        [helpers_python, LOCKS / "openai_batch_round.py", "sim", "sim-embed", f"{two_models.url}/v1"],
        folder=tmp_path,
        environment={},
    )
    five = [f"line-{number}" for number in range(1, 6)]
    assert [seen[name].pop("id")[:6] for name in ("chats", "embeddings", "scores")] == ["batch_"] * 3
    assert seen == {
        "chats": {
            "status": "completed",
            "metadata": {"round": "chats"},
            "output": [f"line-{number}" for number in range(1, 11)],
            "errors": ["context_length_exceeded"],
            "objects": ["chat.completion"],
        },
        "embeddings": {
            "status": "completed",
            "metadata": {"round": "embeddings"},
            "output": five,
            "errors": [],
            "objects": ["list"],
        },
        "scores": {
            "status": "completed",
            "metadata": {"round": "scores"},
            "output": five,
            "errors": [],
            "objects": ["list"],
        },
        "resumed": ["completed", True],
    }


def test_the_command_of_openai_batch_runs_a_file(
    helpers_python: Path, two_models: ServerProcess, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Name a river.\nName a city.\n")
    python = str(helpers_python)
    environment = {"HOME": str(tmp_path)}
    subprocess.run(
        [python, "-m", "openai_batch.create_batch_input", "prompts.txt", "input.jsonl", "--model", "sim"],
        env=environment, cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    created = subprocess.run(
        [python, "-m", "openai_batch.run", "input.jsonl", "--create", "--base-url", f"{two_models.url}/v1",
         "--api-key", "none"],
        env=environment, cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "Created batch_" in created.stdout


def test_litellm_creates_waits_reads_and_deletes_through_its_openai_provider(
    litellm_python: Path, two_models: ServerProcess, tmp_path: Path
) -> None:
    seen = run(
        [litellm_python, LOCKS / "litellm_round.py", "sim", "sim-embed", f"{two_models.url}/v1"],
        folder=tmp_path,
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    refused = seen.pop("refused")
    assert "'unknown' does not exist" in refused
    assert "[aliases]" in refused
    size = seen["file"].pop()
    assert size > 1000
    assert seen == {
        "file": ["processed"],
        "status": "completed",
        "metadata": {"through": "litellm"},
        "counts": [12, 12, 0],
        "output": [f"row-{number}" for number in range(12)],
        "listed": True,
        "answer": True,
        "embedding": 384,
        "deleted": True,
    }
