"""What large inputs come as, end to end with a real server: compressed, in parts, and under OpenAI's own limits."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.support.batches import chat_line, create, outcome, simulated, wait_for
from tests.support.process import ServerProcess

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = b"\n".join(chat_line(f"row-{number}", f"text {number}") for number in range(200)) + b"\n"


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("zst", zstd.compress)])
def test_a_compressed_input_runs_like_a_plain_one(
    client: openai.OpenAI, tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    source = tmp_path / f"nightly.jsonl.{suffix}"
    source.write_bytes(compress(CONTENT))
    with source.open("rb") as stream:
        file = client.files.create(file=stream, purpose="batch")
    assert (file.filename, file.bytes) == ("nightly.jsonl", len(CONTENT))
    done = wait_for(client, create(client, file.id).id)
    result = outcome(client, done)
    assert result.counts == (200, 200, 0)
    assert [line["custom_id"] for line in result.output] == [f"row-{number}" for number in range(200)]


async def test_the_asynchronous_client_cuts_a_compressed_file_into_parts(server: ServerProcess, tmp_path: Path) -> None:
    source = tmp_path / "nightly.jsonl.gz"
    source.write_bytes(gzip.compress(CONTENT))
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        upload = await client.uploads.upload_file_chunked(
            file=source, mime_type="application/gzip", purpose="batch", part_size=1000
        )
        assert upload.file is not None
        assert (await client.files.content(upload.file.id)).read() == CONTENT


def test_the_strict_profile_is_a_flag_and_holds_files_windows_and_lines_to_openais_rules(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, config=simulated(), arguments=["--strict-openai"]).start()
    try:
        with server.client(max_retries=0) as client:
            with pytest.raises(openai.BadRequestError, match=r"Invalid file format for Batch API\. Must be \.jsonl"):
                client.files.create(file=("nightly.txt", CONTENT), purpose="batch")
            file = client.files.create(file=("nightly.jsonl", CONTENT), purpose="batch")
            with pytest.raises(openai.BadRequestError) as refused:
                client.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="7d",  # type: ignore[arg-type]
                )
            assert refused.value.param == "completion_window"
            assert wait_for(client, create(client, file.id).id).status == "completed"
            mixed = CONTENT + json.dumps({**json.loads(chat_line("z", "z")), "body": {"model": "other"}}).encode()
            two = client.files.create(file=("mixed.jsonl", mixed), purpose="batch")
            failed = wait_for(client, create(client, two.id).id)
            assert failed.errors is not None
            assert failed.errors.data is not None
            assert "mismatched_model" in [error.code for error in failed.errors.data]
    finally:
        server.stop()


def test_the_command_takes_a_compressed_file_as_it_is(server: ServerProcess, tmp_path: Path) -> None:
    source = tmp_path / "nightly.jsonl.gz"
    source.write_bytes(gzip.compress(CONTENT))
    command = [sys.executable, "-P", "-m", "nightbatch", "submit", str(source), "--url", server.url]
    done = subprocess.run([*command, "--wait", "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
