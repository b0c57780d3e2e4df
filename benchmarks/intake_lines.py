"""Batch input of a given size, quickly and the same every time: one line, so many bytes, newline included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

SYSTEM = (
    "You sort messages of a bank's customers. Answer with one word, the label that fits best. The labels: "
    "card_arrival, card_linking, exchange_rate, card_payment_wrong_exchange_rate, extra_charge_on_statement, "
    "pending_cash_withdrawal, fiat_currency_support, card_delivery_estimate, automatic_top_up, transfer_timing, "
    "verify_my_identity, lost_or_stolen_card, top_up_failed, passcode_forgotten, refund_not_showing_up."
)
USER = "Message NUMBER__: I am still waiting for my card. "
FILLER = "It was said to be here within a week, and what is going on with it nobody can tell me. "
NUMBER = "NUMBER__"
"""Stands in the template where the line's number goes, in as many characters."""
LINES_PER_CHUNK = 2_000


def template(model: str, line_bytes: int) -> str:
    """A line of exactly `line_bytes` characters, all of them ASCII."""

    def whole(user: str) -> str:
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
        body = {"model": model, "max_tokens": 8, "messages": messages}
        return json.dumps(
            {"custom_id": f"line-{NUMBER}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        )

    missing = line_bytes - 1 - len(whole(USER))
    if missing < 0:
        raise ValueError(f"a line for {model} needs {line_bytes - missing} bytes, {line_bytes} were asked for")
    return whole(USER + (FILLER * (missing // len(FILLER) + 1))[:missing]) + "\n"


def chunks(count: int, *, model: str, line_bytes: int) -> Iterator[bytes]:
    text = template(model, line_bytes)
    for start in range(0, count, LINES_PER_CHUNK):
        stop = min(start + LINES_PER_CHUNK, count)
        yield "".join([text.replace(NUMBER, f"{number:08d}") for number in range(start, stop)]).encode()


def write(path: Path, count: int, *, model: str, line_bytes: int) -> int:
    """The bytes written."""
    with path.open("wb") as file:
        return sum(file.write(chunk) for chunk in chunks(count, model=model, line_bytes=line_bytes))
