"""Continuous batching in virtual time: a waiting queue, running sequences, one step after the other. Pure, no clock.

`plan` says what the next steps would be and how long they take; `apply` makes them happen. Steps that are all alike
(everyone decodes, nobody may enter) are planned as one jump, so that a million lines cost what their finishes cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.simulated.kv_cache import KvCache
from engine.simulated.profiles import SimulatedProfile


@dataclass(slots=True, eq=False)
class SequenceState:
    """One sequence: a prompt and the number of tokens that it will generate (0: a pooling request)."""

    prompt_tokens: int
    block_hashes: Sequence[int]
    output_tokens: int
    priority: int
    watched: bool = False  # somebody streams it: report every token
    arrival: int = 0
    prefilled: int = 0
    cached_tokens: int = 0
    generated: int = 0
    private_blocks: int = 0
    prefill_target: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return (self.priority, self.arrival)

    @property
    def decoding(self) -> bool:
        return self.prefilled >= self.prefill_target

    @property
    def finished(self) -> bool:
        return self.decoding and self.generated >= self.output_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` equal steps of `step_seconds` each; `prefill` are the chunks of the one step that computes prompts."""

    steps: int
    step_seconds: float
    prefill: Sequence[tuple[SequenceState, int]] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    finished: Sequence[SequenceState] = ()
    watched: Sequence[SequenceState] = ()


@dataclass(slots=True)
class Device:
    profile: SimulatedProfile
    cache: KvCache = field(init=False)
    running: list[SequenceState] = field(default_factory=list)
    preemptions: int = 0
    _waiting: list[tuple[tuple[int, int], SequenceState]] = field(default_factory=list)
    _waiting_members: set[SequenceState] = field(default_factory=set)
    _arrivals: int = 0

    def __post_init__(self) -> None:
        self.cache = KvCache(self.profile.blocks)

    @property
    def waiting(self) -> int:
        return len(self._waiting_members)

    @property
    def idle(self) -> bool:
        return not self.running and not self._waiting_members

    def add(self, sequence: SequenceState) -> None:
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._wait(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence wherever it is (finished, cancelled)."""
        self._waiting_members.discard(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)

    def plan(self) -> Plan:
        """Admit who may enter and lay out the next steps. Call `apply` with at most `steps` of them."""
        self._make_room()
        self._admit()
        prefill = self._prefill_chunks()
        decoding = [sequence for sequence in self.running if sequence.decoding]
        seconds = self.profile.seconds_of_step(len(decoding), sum(tokens for _, tokens in prefill))
        if prefill or not decoding or any(sequence.watched for sequence in decoding):
            return Plan(1, seconds, prefill)
        return Plan(self._alike_steps(decoding), seconds)

    def apply(self, plan: Plan, steps: int) -> Progress:
        decoding = [sequence for sequence in self.running if sequence.decoding]
        for sequence in decoding:
            self._generate(sequence, steps)
        if steps:
            for sequence, tokens in plan.prefill:
                if sequence in self.running:
                    self._prefill(sequence, tokens)
        finished = [sequence for sequence in self.running if sequence.finished]
        watched = [sequence for sequence in self.running if sequence.watched and sequence.decoding]
        for sequence in finished:
            self.remove(sequence)
        return Progress(finished, watched)

    def _wait(self, sequence: SequenceState) -> None:
        self._waiting_members.add(sequence)
        heapq.heappush(self._waiting, (sequence.order, sequence))

    def _prefill(self, sequence: SequenceState, tokens: int) -> None:
        sequence.prefilled += tokens
        if sequence.decoding and sequence.output_tokens:
            self._generate(sequence, 1)  # the step that ends a prefill yields the first token

    def _generate(self, sequence: SequenceState, tokens: int) -> None:
        sequence.generated = min(sequence.generated + tokens, sequence.output_tokens)
        needed = self._private_blocks(sequence, sequence.generated)
        if needed > sequence.private_blocks and self.cache.grow(needed - sequence.private_blocks):
            sequence.private_blocks = needed

    def _private_blocks(self, sequence: SequenceState, generated: int) -> int:
        tokens = sequence.prompt_tokens + generated
        return -(-tokens // self.profile.block_tokens) - len(sequence.block_hashes)

    def _make_room(self) -> None:
        """Preempt the latest of the least urgent until every running sequence can have its next block."""
        while self.running:
            needed = sum(
                self._private_blocks(sequence, sequence.generated + 1) > sequence.private_blocks
                for sequence in self.running
                if sequence.decoding
            )
            if needed <= self.cache.free or len(self.running) == 1:
                return
            victim = max(self.running, key=lambda sequence: sequence.order)
            self.running.remove(victim)
            self._release(victim)
            victim.prefilled = 0
            self.preemptions += 1
            self._wait(victim)

    def _release(self, sequence: SequenceState) -> None:
        self.cache.release(sequence.block_hashes, sequence.private_blocks)
        sequence.private_blocks = 0

    def _admit(self) -> None:
        while self._waiting and len(self.running) < self.profile.running_max:
            _, sequence = self._waiting[0]
            if sequence not in self._waiting_members:
                heapq.heappop(self._waiting)
                continue
            private = self._private_blocks(sequence, sequence.generated + 1)
            matched = self.cache.admit(sequence.block_hashes, private)
            if matched is None:
                return
            heapq.heappop(self._waiting)
            self._waiting_members.remove(sequence)
            sequence.private_blocks = private
            sequence.prefill_target = sequence.prompt_tokens + sequence.generated
            # The last prompt token is always computed: it yields the first output token.
            cached = min(matched * self.profile.block_tokens, sequence.prompt_tokens - 1)
            sequence.cached_tokens = max(cached, 0)
            sequence.prefilled = sequence.cached_tokens
            self.running.append(sequence)

    def _prefill_chunks(self) -> list[tuple[SequenceState, int]]:
        room = self.profile.step_tokens_max - sum(sequence.decoding for sequence in self.running)
        chunks: list[tuple[SequenceState, int]] = []
        for sequence in self.running:
            if room <= 0:
                break
            tokens = min(sequence.prefill_target - sequence.prefilled, room)
            if tokens > 0:
                chunks.append((sequence, tokens))
                room -= tokens
        return chunks

    def _alike_steps(self, decoding: Sequence[SequenceState]) -> int:
        """Steps until somebody finishes, or until the next block of some sequence could be the last free one."""
        until_finish = min(sequence.output_tokens - sequence.generated for sequence in decoding)
        if self.cache.free >= len(decoding) * (1 + until_finish // self.profile.block_tokens):
            return max(until_finish, 1)
        return 1
