"""How long starts took, remembered over restarts of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.start_times import FILE_NAME, KEPT, UNKNOWN_SECONDS, StartTimes, expected_seconds


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ([], UNKNOWN_SECONDS),
        ([20.0], 20.0),
        ([900.0, 20.0], 900.0),
        ([900.0, 20.0, 25.0], 25.0),  # the first one downloaded the weights
        ([20.0, 21.0, 60.0, 22.0, 50.0], 50.0),
    ],
)
def test_the_longest_start_but_for_one_is_expected(measured: list[float], expected: float) -> None:
    assert expected_seconds(measured) == expected


async def test_the_last_starts_are_known_after_a_restart(tmp_path: Path) -> None:
    times = StartTimes.load(tmp_path / "engines")
    for seconds in range(KEPT + 2):
        times.note("chat", float(seconds))
    await times.written()
    assert StartTimes.load(tmp_path / "engines").seconds("chat") == KEPT


@pytest.mark.parametrize("content", ["", "[]", '{"chat": 3}', '{"chat": ["x"]}', "{"])
def test_a_broken_file_costs_only_the_estimates(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    assert StartTimes.load(tmp_path).seconds("chat") == UNKNOWN_SECONDS
