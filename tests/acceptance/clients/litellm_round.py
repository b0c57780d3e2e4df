"""LiteLLM's batch calls with this server as its `openai` provider. Prints what it saw as JSON."""

import asyncio
import json
import sys
from typing import Any

import litellm

MODEL, EMBEDDING_MODEL, BASE_URL = sys.argv[1:]
SERVER: dict[str, Any] = {"custom_llm_provider": "openai", "api_base": BASE_URL, "api_key": "none"}
TERMINAL = {"completed", "failed", "expired", "cancelled"}


def line(number: int) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 16}
    return json.dumps({"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


async def main() -> dict[str, Any]:
    content = "\n".join(line(number) for number in range(12)).encode()
    file = await litellm.acreate_file(file=("nightly.jsonl", content), purpose="batch", **SERVER)
    batch = await litellm.acreate_batch(
        completion_window="24h",
        endpoint="/v1/chat/completions",
        input_file_id=file.id,
        metadata={"through": "litellm"},
        **SERVER,
    )
    while batch.status not in TERMINAL:
        await asyncio.sleep(0.1)
        batch = await litellm.aretrieve_batch(batch_id=batch.id, **SERVER)
    content = await litellm.afile_content(file_id=batch.output_file_id, **SERVER)
    listed = await litellm.alist_batches(limit=1, **SERVER)
    answer = await litellm.acompletion(
        model=f"openai/{MODEL}",
        messages=[{"role": "user", "content": "hello"}],
        api_base=BASE_URL,
        api_key="none",
        max_tokens=8,
    )
    embedding = await litellm.aembedding(
        model=f"openai/{EMBEDDING_MODEL}", input=["hello"], api_base=BASE_URL, api_key="none"
    )
    refused = "no error"
    try:
        await litellm.acompletion(
            model="openai/unknown",
            messages=[{"role": "user", "content": "hello"}],
            api_base=BASE_URL,
            api_key="none",
            max_retries=0,
        )
    except litellm.NotFoundError as error:
        refused = str(error)
    deleted = await litellm.afile_delete(file_id=file.id, **SERVER)
    return {
        "file": [file.status, file.bytes],
        "status": batch.status,
        "metadata": dict(batch.metadata or {}),
        "counts": [batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed],
        "output": [json.loads(text)["custom_id"] for text in content.text.splitlines()],
        "listed": [found.id for found in listed.data] == [batch.id],
        "answer": bool(answer.choices[0].message.content),
        "embedding": len(embedding.data[0]["embedding"]),
        "refused": refused,
        "deleted": deleted.deleted,
    }


print(json.dumps(asyncio.run(main())))
