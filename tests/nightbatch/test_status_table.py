"""The table of batches on screens of every width."""

from __future__ import annotations

import io

import pytest
from openai.types import Batch
from rich.console import Console

from nightbatch.commands.status import overview

ID = f"batch_{'7' * 32}"


def shown(columns: int, *, done: int = 60) -> str:
    batch = Batch.construct(
        id=ID,
        status="in_progress",
        model="meta-llama/Llama-3.1-8B-Instruct",
        endpoint="/v1/chat/completions",
        completion_window="24h",
        created_at=0,
        request_counts={"total": done, "completed": done, "failed": 0},
    )
    screen = Console(file=io.StringIO(), width=columns)
    screen.print(overview([batch], screen, now=5.0))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= columns
    return str(text)


@pytest.mark.parametrize("columns", [80, 100, 240])
@pytest.mark.parametrize("done", [60, 1_000_000])
def test_id_status_and_progress_are_whole_on_every_screen(columns: int, done: int) -> None:
    text = shown(columns, done=done)
    for word in (ID, "in_progress", f"{done:,}/{done:,}", "failed"):
        assert word in text


def test_a_wide_screen_shows_every_column() -> None:
    for word in ("meta-llama/Llama-3.1-8B-Instruct", "/v1/chat/completions", "24h", "5.0 s"):
        assert word in shown(240)


def test_a_narrow_screen_goes_without_the_endpoint_first() -> None:
    assert "/v1/chat" not in shown(120)
    assert "meta-llama" in shown(120)
