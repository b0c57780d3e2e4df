"""One batch with the official openai package: python examples/client.py FILE [BASE_URL]"""

import json
import sys
import time
from pathlib import Path

from openai import OpenAI

TERMINAL = {"completed", "failed", "expired", "cancelled"}


def main(path: Path, base_url: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none")
    with path.open("rb") as file:
        endpoint = json.loads(file.readline())["url"]
        file.seek(0)
        uploaded = client.files.create(file=file, purpose="batch")

    batch = client.batches.create(input_file_id=uploaded.id, endpoint=endpoint, completion_window="24h")
    while batch.status not in TERMINAL:
        time.sleep(1)
        batch = client.batches.retrieve(batch.id)
        print(batch.status, batch.request_counts)

    for error in (batch.errors.data if batch.errors else None) or []:
        print(f"line {error.line}: {error.message}")
    if batch.output_file_id:
        for line in client.files.content(batch.output_file_id).text.splitlines():
            result = json.loads(line)
            print(result["custom_id"], json.dumps(result["response"]["body"])[:100])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1")
