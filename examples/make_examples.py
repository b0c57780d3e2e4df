"""Makes banking77.jsonl and embeddings.jsonl again from banking77's test.csv (columns text, category).

python examples/make_examples.py path/to/test.csv
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHAT_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"

LABELS = {
    "age_limit": "how old one must be",
    "apple_pay_or_google_pay": "paying by phone",
    "card_arrival": "a card that has not come yet",
    "card_swallowed": "a cash machine kept the card",
    "change_pin": "choosing a new PIN",
    "exchange_rate": "rates between currencies",
    "lost_or_stolen_card": "a card that is gone",
    "passcode_forgotten": "cannot log in to the app",
    "request_refund": "wants money back",
    "terminate_account": "closing the account",
}
"""Ten of the 77, far enough apart for a small model, few enough for a short prompt."""

ROWS_PER_LABEL = 24
EMBEDDED_TEXTS = 160

SYSTEM = "Sort a bank customer's message into one category. Answer in JSON.\n" + "\n".join(
    f"{label}: {meaning}" for label, meaning in LABELS.items()
)
ANSWER = {
    "type": "json_schema",
    "json_schema": {
        "name": "category",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"category": {"type": "string", "enum": sorted(LABELS)}},
            "required": ["category"],
            "additionalProperties": False,
        },
    },
}


def main(csv_path: Path) -> None:
    with csv_path.open(newline="", encoding="utf-8") as file:
        rows = [(number, row["text"], row["category"]) for number, row in enumerate(csv.DictReader(file))]
    write(HERE / "banking77.jsonl", chat_lines(rows))
    write(HERE / "embeddings.jsonl", embedding_lines(rows))


def chat_lines(rows: list[tuple[int, str, str]]) -> Iterator[dict[str, object]]:
    """The labels take turns, so that any first part of the file holds all of them."""
    by_label = {label: [row for row in rows if row[2] == label][:ROWS_PER_LABEL] for label in LABELS}
    for turn in zip(*by_label.values(), strict=True):
        for number, text, label in turn:
            body = {
                "model": CHAT_MODEL,
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 32,
                "response_format": ANSWER,
            }
            yield line(f"{label}-{number}", "/v1/chat/completions", body)


def embedding_lines(rows: list[tuple[int, str, str]]) -> Iterator[dict[str, object]]:
    for number, text, _ in rows[:: len(rows) // EMBEDDED_TEXTS][:EMBEDDED_TEXTS]:
        yield line(f"text-{number}", "/v1/embeddings", {"model": EMBEDDING_MODEL, "input": text})


def line(custom_id: str, url: str, body: dict[str, object]) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def write(path: Path, lines: Iterator[dict[str, object]]) -> None:
    text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
    path.write_text(text, encoding="utf-8")
    print(f"{path.name}: {text.count(chr(10))} lines, {len(text.encode())} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
