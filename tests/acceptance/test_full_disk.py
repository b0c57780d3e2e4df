"""A disk that really fills up: a small tmpfs as data folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.batches import create, mixed_lines, outcome, simulated, upload, wait_for
from tests.support.process import ServerProcess

DISK_MIB = 192
RESERVE_MIB = 64


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "nightbatch", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_refuses_uploads_pauses_batches_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    lines = mixed_lines(600)
    server = ServerProcess(tmp_path / "server", config=simulated(time_scale=0.3))
    server.data = disk / "data"
    server.start()
    filler = disk / "filler"
    try:
        client = server.client(max_retries=0)
        batch = create(client, upload(client, lines))
        wait_for(client, batch.id, lambda batch: batch.request_counts.completed > 0)  # type: ignore[union-attr]

        filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - 8 * 1024 * 1024))
        paused = wait_for(client, batch.id, lambda batch: batch.pause_reason is not None)  # type: ignore[attr-defined]
        assert paused.status == "in_progress"
        assert "disk" in paused.pause_reason.lower()  # type: ignore[attr-defined]
        with pytest.raises(openai.APIStatusError) as refused:
            upload(client, lines)
        assert refused.value.status_code == 507
        assert "disk" in refused.value.message.lower()

        filler.unlink()
        done = wait_for(client, batch.id)
        assert done.status == "completed"
        again = wait_for(client, create(client, upload(client, lines)).id)
        assert outcome(client, done) == outcome(client, again)
    finally:
        server.kill()
