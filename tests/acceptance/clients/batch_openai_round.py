"""`batch-openai` as its documentation drives it: builder, job, result, registry. Prints what it saw as JSON."""

import asyncio
import json
import sys

from batch_openai import BatchJob, BatchJobError, BatchRegistry, BatchRequestBuilder
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

POLL_SECONDS = 0.1
MODEL = sys.argv[1]


class Label(BaseModel):
    label: str


def questions(count: int, first: int = 0) -> BatchRequestBuilder:
    builder = BatchRequestBuilder()
    for number in range(first, first + count):
        builder.add(
            messages=[{"role": "user", "content": f"question {number}"}],
            model=MODEL,
            custom_id=f"doc-{number}",
            max_completion_tokens=20,
        )
    return builder


def round_of_the_synchronous_client() -> dict[str, object]:
    client = OpenAI()
    builder = questions(20)
    builder.add(messages=[{"role": "user", "content": "far too long " * 5_000}], model=MODEL, custom_id="too-long")
    job = builder.submit(client, description="twenty questions")
    registry = BatchRegistry("registry")
    registry.track(job)
    counts: list[int] = []
    result = job.wait(poll_interval=POLL_SECONDS, on_progress=lambda batch: counts.append(batch.request_counts.total))
    again = BatchJob.from_id(client, job.batch_id)
    joined = result.join(range(20), key=lambda number: f"doc-{number}")
    return {
        "succeeded": [item.custom_id for item in result.succeeded],
        "failed": {item.custom_id: item.error and item.error["code"] for item in result.failed},
        "joined": all(pair.output and pair.output.content for pair in joined),
        "description": again.description,
        "status": again.status,
        "tracked": [record.batch_id for record in registry.list()] == [job.batch_id],
        "batch": job.batch_id,
        "progress": counts[-1],
    }


def structured_output() -> list[str]:
    schema = {
        "type": "object",
        "properties": {"label": {"enum": ["a", "b"]}},
        "required": ["label"],
        "additionalProperties": False,
    }
    builder = BatchRequestBuilder()
    for number in range(3):
        builder.add(
            messages=[{"role": "user", "content": f"label {number}"}],
            model=MODEL,
            response_format={"type": "json_schema", "json_schema": {"name": "l", "strict": True, "schema": schema}},
        )
    result = builder.submit(OpenAI()).wait(poll_interval=POLL_SECONDS)
    return [answer.label for answer in result.parse(Label)]


async def round_of_the_asynchronous_client() -> list[str]:
    async with AsyncOpenAI() as client:
        job = await questions(5, first=100).async_submit(client)
        result = await job.await_completion(poll_interval=POLL_SECONDS)
        return [item.custom_id for item in result.succeeded]


def refused() -> str:
    builder = BatchRequestBuilder()
    for _ in range(2):
        builder.add(messages=[{"role": "user", "content": "hello"}], model=MODEL, custom_id="twice")
    try:
        builder.submit(OpenAI()).wait(poll_interval=POLL_SECONDS)
    except BatchJobError as error:
        return str(error)
    return "no error"


print(
    json.dumps(
        {
            **round_of_the_synchronous_client(),
            "labels": structured_output(),
            "asynchronous": asyncio.run(round_of_the_asynchronous_client()),
            "refused": refused(),
        }
    )
)
