"""Which cores a CPU engine computes on: pure, from the machine's layout to the binding that vLLM reads at its start.

Left alone, vLLM leaves one physical core unused on x86, and every further engine lands on the same cores as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Core:
    """One logical CPU: `core` is the physical core it belongs to, `node` the memory node."""

    cpu: int
    core: int
    node: int


@dataclass(frozen=True, slots=True)
class CoreWish:
    """`ranks` is how many workers the engine has (tensor parallelism); `given` is the user's own binding."""

    engine: str
    ranks: int = 1
    given: str | None = None


@dataclass(frozen=True, slots=True)
class CorePlan:
    """`bindings` are values of VLLM_CPU_OMP_THREADS_BIND."""

    bindings: Mapping[str, str]
    lines: tuple[str, ...]


def plan_cores(cores: Sequence[Core], wishes: Sequence[CoreWish]) -> CorePlan:
    """Every worker gets all physical cores of one memory node, one logical CPU each; workers go round the nodes.

    Engines on one node share its cores: batches of different models seldom run at the same moment, and a core kept for
    an idle engine is lost. Threads that wait sleep after 5 ms, so an idle engine takes nothing from a busy one.
    """
    nodes = [members for _, members in sorted(_by_node(cores).items())]
    if not nodes:
        raise ValueError("no core is available to this process")
    bindings: dict[str, str] = {}
    turn = 0
    for wish in wishes:
        if wish.given is not None:
            bindings[wish.engine] = wish.given
            continue
        parts = [nodes[(turn + rank) % len(nodes)] for rank in range(wish.ranks)]
        if wish.ranks > len(nodes):
            parts = _dealt(cores, wish.ranks)
        bindings[wish.engine] = "|".join(ranges(part) for part in parts)
        turn += wish.ranks
    lines = tuple(f"cores of {engine}: {binding}" for engine, binding in bindings.items())
    return CorePlan(bindings, lines)


def _by_node(cores: Sequence[Core]) -> dict[int, list[int]]:
    """The first logical CPU of each physical core: a second thread on a core slows matrix products down."""
    firsts: dict[tuple[int, int], int] = {}
    for core in sorted(cores, key=lambda core: core.cpu):
        firsts.setdefault((core.node, core.core), core.cpu)
    nodes: dict[int, list[int]] = {}
    for (node, _), cpu in firsts.items():
        nodes.setdefault(node, []).append(cpu)
    return nodes


def _dealt(cores: Sequence[Core], ranks: int) -> list[list[int]]:
    """More workers than memory nodes: each gets its own run of neighbouring cores, or a shared one when short."""
    every = [cpu for _, members in sorted(_by_node(cores).items()) for cpu in members]
    size = max(1, len(every) // ranks)
    runs = [every[start : start + size] for start in range(0, size * ranks, size)]
    return [run or [every[number % len(every)]] for number, run in enumerate(runs)]


def ranges(cpus: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` is `0-2,5`."""
    parts = []
    for _, run in groupby(enumerate(sorted(cpus)), key=lambda pair: pair[1] - pair[0]):
        members = [cpu for _, cpu in run]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(parts)
