"""What this machine has, as a container sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import machine
from engine.memory import GIB, MIB


@pytest.mark.parametrize(
    ("stat", "free_bytes"),
    [
        ("anon 1\ninactive_file 104857600\n", 500 * MIB),
        ("cache 7\ntotal_inactive_file 104857600\ninactive_file 3\n", 500 * MIB),
        ("not a line of figures at all\n", 400 * MIB),
        (None, 400 * MIB),
    ],
)
def test_files_that_a_container_has_cached_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stat: str | None, free_bytes: int
) -> None:
    """The weights of an engine that has gone would else keep it from coming back."""
    (tmp_path / "max").write_text(f"{GIB}\n")
    (tmp_path / "current").write_text(f"{GIB - 400 * MIB}\n")
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    for name in ("max", "current", "stat"):
        constant = {"max": "CGROUP_LIMITS", "current": "CGROUP_USES", "stat": "CGROUP_STATS"}[name]
        monkeypatch.setattr(machine, constant, (tmp_path / name,))
    found = machine.read_cpu_memory()
    assert (found.total_bytes, found.free_bytes) == (GIB, free_bytes)
