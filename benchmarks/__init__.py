"""Every number in the documents comes from a command here: `nightbatch bench NAME`, or `python -m benchmarks.NAME`.

A benchmark is a module with `main(argv) -> int`, listed in `names()`. It measures through `benchmarks.form`, which owns
the flags, the table and the JSON, so that all of them look and behave alike. README.md holds the figures.
"""

from __future__ import annotations


def names() -> dict[str, str]:
    """Name -> what it measures, in one line. Cheap: nothing else is imported."""
    return {
        "deadlines": "a week of batches in virtual time: deadlines, work inside the windows, stretch, by policy",
        "embeddings": "20,000 short texts through the API against one LLM.embed of all of them, on one model",
        "intake": "upload, index and validate 50,000 and 500,000 lines; overhead of a 10-line batch",
        "interference": "online latency and batch throughput side by side, under each scheduling policy, on one engine",
        "interference_simulated": "the same policies on a simulated CPU and a simulated GPU, in virtual time",
        "packing": "prompts that begin alike, packed and in file order, against run_batch; nothing shared beside it",
        "reuse": "identical requests answered once: what still runs the second night, and what keeping answers costs",
        "scale": "1,000 to 1,000,000 lines on an instant engine: lines/s, memory, CPU per line, finalize, restart",
        "small_batch": "where the time of a small batch goes, phase by phase, from upload to downloaded results",
        "stragglers": "answers of very different lengths: ours against file order and run_batch",
        "throughput": "the same file through our API, vLLM's run_batch and a parallel client, on one model",
    }
