"""vLLM's own offline way: one `LLM.embed` of all texts. A process of its own, for `benchmarks.embeddings`.

Reads a JSON list of texts; writes the seconds that the call took, the prompt tokens, and the vectors of the texts asked
for with `--show`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVER_ONLY_FLAGS = frozenset({"--enable-prompt-tokens-details"})
"""Our engine is started with them, and they mean nothing to a call without a server."""


def build(flags: Sequence[str]) -> Any:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = parser.parse_args([flag for flag in flags if flag not in SERVER_ONLY_FLAGS])
    return LLM.from_engine_args(EngineArgs.from_cli_args(arguments))


def embed(llm: Any, texts: Sequence[str], warm_up: int, shown: Sequence[int]) -> dict[str, Any]:
    llm.embed(list(texts[:warm_up]), use_tqdm=False)
    began = time.perf_counter()
    outputs = llm.embed(list(texts), use_tqdm=False)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "texts": len(outputs),
        "prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
        "vectors": [list(outputs[number].outputs.embedding) for number in shown],
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_embed", description=__doc__)
    parser.add_argument("--texts", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--warm-up", required=True, type=int)
    parser.add_argument("--show", type=int, nargs="*", default=[])
    ours, flags = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    asked = parser.parse_args(ours)
    texts = json.loads(asked.texts.read_text(encoding="utf-8"))
    asked.output.write_text(json.dumps(embed(build(flags), texts, asked.warm_up, asked.show)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
