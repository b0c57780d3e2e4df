"""What a simulated device is given: online requests at the times of the Azure traces, and a batch backlog without end.

Texts are counts of tokens here. Online prompts are as long as the MT-bench questions; a GPU's online requests carry a
conversation, so they are longer. The backlog has the kinds and the mixture of `benchmarks.backlog`: classifications
behind a common instruction, reasoning questions with long answers, documents of 1,500 tokens.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import backlog, online_trace
from benchmarks.online_trace import Arrival
from engine.simulated.sequence import SequenceState

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 20
BISECTIONS = 14
STRETCH = (0.05, 500.0)
ONLINE, BATCH = 0, 10
UNIQUE = 1 << 62
"""Above every hash of a shared block."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of batch line: tokens of the common instruction, of its own, and of its answer; `share` by count."""

    common_tokens: int
    own_tokens: int
    answer_tokens: int
    share: int


@dataclass(frozen=True, slots=True)
class Load:
    """How one preset is loaded; the factors lengthen online prompts and answers."""

    prompt_factor: int
    answer_factor: int
    kinds: Sequence[Kind]


CLASSIFY = Kind(608, 16, 6, backlog.BANKING)
REASON = Kind(32, 110, backlog.MATHS_TOKENS, backlog.MATHS)
READ = Kind(0, 1_500, backlog.DOCUMENT_TOKENS, backlog.DOCUMENTS)
LOADS = {
    "cpu-135m": Load(1, 1, (CLASSIFY, REASON, READ)),
    "gpu-8b": Load(16, 4, (CLASSIFY, REASON, READ)),
}


@dataclass(frozen=True, slots=True)
class OnlineRequest:
    at: float
    prompt_tokens: int
    answer_tokens: int


def prompt_lengths(load: Load) -> list[int]:
    return [
        load.prompt_factor * (-(-len(text) // CHARACTERS_PER_TOKEN)) + TEMPLATE_TOKENS
        for text in online_trace.read_texts()
    ]


def online(
    load: Load,
    trace: str,
    *,
    windows: int,
    seconds: float,
    wanted: float,
    presence: Callable[[Sequence[OnlineRequest]], float],
) -> list[OnlineRequest]:
    """`windows` pieces of the trace one after the other, so stretched that `presence` comes near to the wanted one: by
    bisection, since a longer time between requests means less of it with somebody present."""
    longer = [Arrival(one.at, one.output_tokens * load.answer_factor) for one in online_trace.read_trace(trace)]
    low, high = STRETCH
    found: list[OnlineRequest] = []
    for _ in range(BISECTIONS):
        stretch = math.sqrt(low * high)
        found = _joined(online_trace.cut(longer, windows=windows, seconds=seconds, stretch=stretch), seconds, load)
        if presence(found) > wanted:
            low = stretch
        else:
            high = stretch
    return found


def _joined(pieces: Sequence[Sequence[Arrival]], seconds: float, load: Load) -> list[OnlineRequest]:
    prompts = itertools.cycle(prompt_lengths(load))
    return [
        OnlineRequest(number * seconds + one.at, next(prompts), one.output_tokens)
        for number, piece in enumerate(pieces)
        for one in piece
    ]


def batch_lines(load: Load, block_tokens: int, seed: int = 0) -> Iterator[SequenceState]:
    """Lines of the batch without end; lengths vary by a fifth, lines of a kind share their instruction's blocks."""
    chance = random.Random(seed)
    kinds = list(load.kinds)
    for number in itertools.count(1):
        (kind,) = chance.choices(kinds, [each.share for each in kinds])
        prompt_tokens = kind.common_tokens + max(1, round(kind.own_tokens * chance.uniform(0.8, 1.2)))
        shared = kind.common_tokens // block_tokens
        hashes = [(kinds.index(kind) << 32) + block for block in range(shared)]
        hashes += [UNIQUE + (number << 12) + block for block in range(shared, prompt_tokens // block_tokens)]
        answer_tokens = max(1, round(kind.answer_tokens * chance.uniform(0.8, 1.2)))
        yield SequenceState(prompt_tokens, tuple(hashes), answer_tokens, BATCH)
