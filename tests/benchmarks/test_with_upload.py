"""What goes on beside a measured server: each of its three kinds moves bytes, and it ends when it is told to."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import client, with_upload
from benchmarks.server_process import ServerProcess
from benchmarks.with_upload import Transfers

PATIENCE_SECONDS = 60.0
CONFIG = """
[[models]]
id = "instant"
engine = "simulated"
profile = "gpu-8b"
time_scale = 0.0
"""


def test_an_upload_batches_and_a_download_go_on_until_they_are_ended(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(with_upload, "DOWNLOAD_LINES", 2_048)
    monkeypatch.setattr(with_upload, "BATCH_LINES", 256)
    with ServerProcess((), config=CONFIG) as server:
        api = client.connect(server.url)
        transfers = Transfers(api, tmp_path)
        with transfers.lasting() as end:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not any(batch.status == "completed" for batch in api.batches.list().data):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            moved = end()
        assert moved.uploaded_bytes > 0
        assert moved.downloaded_bytes > 0
        assert moved.mib > 0
        assert moved.seconds > 0
        assert end() is not None  # a second time it only says it again
        left = {file.id for file in api.files.list().data if file.purpose == "batch"}
        assert left == {transfers.batch_file, transfers.download_file}
