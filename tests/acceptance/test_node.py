"""The official `openai` package for Node, unchanged but for its base URL, against a real server process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import NODE, run
from tests.support.process import ServerProcess

Rounds = Callable[[str], Any]


@pytest.fixture(scope="module")
def seen(node: Path, two_models: ServerProcess) -> Rounds:
    """What a round of `round.mjs` saw."""
    folder = two_models.folder
    (folder / "node_modules").symlink_to(node / "node_modules")  # Node looks for packages beside the program
    program = shutil.copy(NODE / "round.mjs", folder)

    def run_round(name: str) -> Any:
        return run(["node", program, f"{two_models.url}/v1", "sim", "sim-embed", name], folder=folder, environment={})

    return run_round


def test_node_runs_a_batch_from_file_to_results(seen: Rounds) -> None:
    assert seen("wholeBatch") == {
        "file": ["processed", "nightly.jsonl", "batch"],
        "status": "completed",
        "counts": {"total": 21, "completed": 20, "failed": 1},
        "metadata": {"team": "search"},
        "usage": True,
        "output": [f"row-{number}" for number in range(20)],
        "errors": ["context_length_exceeded"],
    }


def test_node_uploads_streams_and_blobs_pages_and_deletes_files(seen: Rounds) -> None:
    assert seen("filesOfEveryKind") == {
        "expires": 3600,
        "bytes": True,
        "listed": True,
        "deleted": True,
        "gone": ["NotFoundError", 404, "file_not_found", "id", "string"],
    }


def test_node_pages_through_batches(seen: Rounds) -> None:
    assert seen("pages") is True


def test_node_cancels_and_is_refused_a_second_time(seen: Rounds) -> None:
    cancelled = seen("cancelled")
    assert (cancelled["asked"], cancelled["status"]) == ("cancelling", "cancelled")
    assert cancelled["again"][:3] == ["ConflictError", 409, "batch_not_cancellable"]


def test_node_reads_the_line_errors_of_a_refused_file(seen: Rounds) -> None:
    assert seen("failed") == {"status": "failed", "errors": [["duplicate_custom_id", 2]]}


def test_node_uploads_in_parts(seen: Rounds) -> None:
    assert seen("uploadInParts") == {
        "begun": "pending",
        "done": "completed",
        "same": True,
        "batch": "completed",
        "cancelled": "cancelled",
    }


def test_node_chats_streams_and_embeds(seen: Rounds) -> None:
    assert seen("online") == {"same": True, "numbers": True, "models": True, "requestId": True}


def test_node_raises_the_error_class_of_each_status(seen: Rounds) -> None:
    assert seen("errors") == {
        "unknownBatch": ["NotFoundError", 404, "batch_not_found", "batch_id", "string"],
        "unknownFile": ["NotFoundError", 404, "file_not_found", "id", "string"],
        "unknownModel": ["NotFoundError", 404, "model_not_found", "model", "string"],
        "badWindow": ["BadRequestError", 400, "invalid_value", "completion_window", "string"],
        "emptyFile": ["BadRequestError", 400, "empty_file", "file", "string"],
    }
