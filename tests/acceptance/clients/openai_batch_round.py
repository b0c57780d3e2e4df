"""`openai-batch`: add, submit_wait_download, resume. Prints what it saw as JSON.

Its release 0.3.4 closes the file that it wrote and then reads from it, so an object that added requests cannot submit
them, whatever the server: here a second object submits the file, as `python -m openai_batch.run` does.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from openai_batch import Batch
from openai_batch.providers import Provider

MODEL, EMBEDDING_MODEL, BASE_URL = sys.argv[1:]
POLL_SECONDS = 0.1


def lines(path: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if path else []


def run(name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
    provider = Provider(base_url=BASE_URL, api_key="none")
    with Batch(f"{name}.jsonl", provider=provider) as written:
        for request in requests:
            written.add_to_batch(**request)
    batch = Batch(f"{name}.jsonl", f"{name}-output.jsonl", f"{name}-errors.jsonl", provider=provider)
    batch.batch_type = written.batch_type
    with contextlib.redirect_stdout(sys.stderr):  # it prints each status
        done, output, errors = batch.submit_wait_download(interval=POLL_SECONDS, metadata={"round": name})
    return {
        "id": done.id,
        "status": done.status,
        "metadata": done.metadata,
        "output": [line["custom_id"] for line in lines(output)],
        "errors": [line["response"]["body"]["error"]["code"] for line in lines(errors)],
        "objects": sorted({line["response"]["body"]["object"] for line in lines(output)}),
    }


def chat(text: str) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_completion_tokens": 20}


chats = run("chats", [*(chat(f"joke {number}") for number in range(10)), chat("far too long " * 5_000)])
resumed = Batch(batch_id=chats["id"], output_file="again.jsonl", provider=Provider(base_url=BASE_URL, api_key="none"))
status = resumed.status().status
resumed.download()
print(
    json.dumps(
        {
            "chats": chats,
            "embeddings": run("embeddings", [{"model": EMBEDDING_MODEL, "input": f"text {n}"} for n in range(5)]),
            "scores": run(
                "scores", [{"model": EMBEDDING_MODEL, "text_1": "river", "text_2": f"text {n}"} for n in range(5)]
            ),
            "resumed": [status, Path("again.jsonl").read_bytes() == Path("chats-output.jsonl").read_bytes()],
        }
    )
)
