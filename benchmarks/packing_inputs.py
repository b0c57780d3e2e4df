"""The files of `packing` and `stragglers`: few-shot questions that share long prompts, questions that share nothing,
and requests whose answers differ much in length. What they hold depends on the arguments alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.form import CouldNotMeasure
from benchmarks.online_trace import DATA

ROWS_PER_TASK = 24
PARETO_SHAPE = 1.1
SHORTEST_ANSWER, LONGEST_ANSWER = 10, 512


def _read(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CouldNotMeasure(f"{name} cannot be read ({error}): reinstall nightbatch") from error
    return [row for row in rows if "canary" not in row]


def few_shot_prompts() -> dict[str, str]:
    """Of BIG-Bench Hard, by task. Some tasks have the same one."""
    return {row["task"]: row["prompt"] for row in _read("bbh/prompts.jsonl")}


def few_shot_lines(*, rows_per_task: int, max_tokens: int, seed: int = 0) -> list[bytes]:
    """Questions of all tasks, each behind its task's prompt, shuffled."""
    prompts, seen = few_shot_prompts(), dict.fromkeys(few_shot_prompts(), 0)
    lines = []
    for row in _read("bbh/rows.jsonl"):
        task = row["task"]
        seen[task] += 1
        if seen[task] <= rows_per_task:
            text = f"{prompts[task]}\n\nQ: {row['input']}\nA: Let's think step by step."
            lines.append(_chat(f"{task}-{seen[task]}", text, max_tokens))
    random.Random(seed).shuffle(lines)
    return lines


def split(lines: Sequence[bytes], parts: int) -> list[list[bytes]]:
    """In files of nearly the same size, each with lines from everywhere."""
    return [list(lines[part::parts]) for part in range(parts)]


def distinct_lines(*, count: int, max_tokens: int) -> list[bytes]:
    """Questions of GSM8K: no two begin alike."""
    texts = [str(row["text"]) for row in _read("gsm8k/questions.jsonl")]
    if count > len(texts):
        raise CouldNotMeasure(f"there are {len(texts)} questions of GSM8K, not {count}: a repeated one would be shared")
    return [_chat(f"question-{no}", text, max_tokens) for no, text in enumerate(texts[:count])]


def heavy_tailed_lengths(count: int, *, seed: int) -> list[int]:
    """Pareto: most answers are short, and some are fifty times as long."""
    source = random.Random(seed)
    return [min(LONGEST_ANSWER, int(SHORTEST_ANSWER * source.paretovariate(PARETO_SHAPE))) for _ in range(count)]


def uneven_lines(count: int, *, seed: int) -> list[bytes]:
    """Short prompts, and answers of exactly `heavy_tailed_lengths`, in an order that says nothing of their length."""
    texts = [str(row["text"]).split(". ")[0] for row in _read("gsm8k/questions.jsonl")]
    lengths = heavy_tailed_lengths(count, seed=seed)
    return [
        _line(
            f"answer-{no}",
            "/v1/completions",
            {"prompt": texts[no % len(texts)], "max_tokens": tokens, "ignore_eos": True},
        )
        for no, tokens in enumerate(lengths)
    ]


def _chat(custom_id: str, text: str, max_tokens: int) -> bytes:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "ignore_eos": True}
    return _line(custom_id, "/v1/chat/completions", body)


def _line(custom_id: str, url: str, body: dict[str, Any]) -> bytes:
    line = {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"model": "", **body, "temperature": 0},
    }
    return json.dumps(line, ensure_ascii=False).encode()


def prefix_tokens(model_folder: Path) -> int:
    """Of all different few-shot prompts together, in the model's own tokens."""
    path = model_folder / "tokenizer.json"
    if not path.is_file():
        raise CouldNotMeasure(f"{model_folder.name} has no tokenizer.json: say how large the cache is with --kv-bytes")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return sum(len(tokenizer.encode(text).ids) for text in sorted(set(few_shot_prompts().values())))
