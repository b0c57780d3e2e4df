"""Continuous batching in virtual time: a waiting queue, running sequences, one step after the other. Pure, no clock.

`plan` says what the next steps would be and how long they take; `apply` makes them happen. Steps that are all alike
(everyone decodes, nobody may enter) are planned as one jump, so that a million lines cost what their finishes cost.
With `online_first` the steps beside online sequences are bounded as they are inside vLLM.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.simulated.kv_cache import KvCache
from engine.simulated.online_first import Bounds, OnlineFirst
from engine.simulated.profiles import SimulatedProfile
from engine.simulated.sequence import SequenceState
from engine.vllm.online_first.step_model import StepShape


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` equal steps of `step_seconds` each; `prefill` are the chunks of the one step that computes prompts.
    `parked` run, but sit these steps out."""

    steps: int
    step_seconds: float
    shape: StepShape
    prefill: Sequence[tuple[SequenceState, int]] = ()
    parked: frozenset[SequenceState] = frozenset()


@dataclass(frozen=True, slots=True)
class Progress:
    finished: Sequence[SequenceState] = ()
    watched: Sequence[SequenceState] = ()


@dataclass(slots=True)
class Device:
    profile: SimulatedProfile
    online_first: OnlineFirst | None = None
    cache: KvCache = field(init=False)
    running: list[SequenceState] = field(default_factory=list)
    preemptions: int = 0
    _waiting: list[tuple[tuple[int, int], SequenceState]] = field(default_factory=list)
    _waiting_members: set[SequenceState] = field(default_factory=set)
    _online_waiting: set[SequenceState] = field(default_factory=set)
    _arrivals: int = 0

    def __post_init__(self) -> None:
        self.cache = KvCache(self.profile.blocks)

    @property
    def waiting(self) -> int:
        return len(self._waiting_members)

    @property
    def idle(self) -> bool:
        """Nothing to step for: the batch of a paused engine waits, too."""
        if self.online_first is not None and self.online_first.orders.is_paused:
            return not self._online_waiting and not any(sequence.is_online for sequence in self.running)
        return not self.running and not self._waiting_members

    def add(self, sequence: SequenceState) -> None:
        self._arrivals += 1
        sequence.arrival = self._arrivals
        sequence.name = str(self._arrivals)
        if self.online_first is not None and sequence.is_online:
            self.online_first.note_arrival(sequence.prompt_tokens)
        self._wait(sequence)

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence wherever it is (finished, cancelled)."""
        self._waiting_members.discard(sequence)
        self._online_waiting.discard(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)

    def plan(self) -> Plan:
        """Admit who may enter and lay out the next steps. Call `apply` with at most `steps` of them."""
        bounds = self._bounds()
        self._make_room(bounds.parked)
        self._admit(bounds.admit_max)
        taking_part = [sequence for sequence in self.running if sequence not in bounds.parked]
        prefill = self._prefill_chunks(taking_part, bounds.step_tokens_max)
        decoding = [sequence for sequence in taking_part if sequence.decoding]
        shape = StepShape(
            len(decoding), sum(tokens for _, tokens in prefill), sum(each.context_tokens for each in taking_part)
        )
        seconds = self.profile.seconds_of_step(shape.decodes, shape.prefill_tokens)
        if prefill or not decoding or bounds.is_single or any(sequence.watched for sequence in decoding):
            return Plan(1, seconds, shape, prefill, bounds.parked)
        return Plan(self._alike_steps(decoding), seconds, shape)

    def apply(self, plan: Plan, steps: int) -> Progress:
        if steps and self.online_first is not None:
            self.online_first.learn(plan.shape, plan.step_seconds)
        taking_part = [sequence for sequence in self.running if sequence not in plan.parked]
        for sequence in taking_part:
            if sequence.decoding:
                self._generate(sequence, steps)
        if steps:
            for sequence, tokens in plan.prefill:
                if sequence in self.running:
                    self._prefill(sequence, tokens)
        finished = [sequence for sequence in taking_part if sequence.finished]
        watched = [sequence for sequence in taking_part if sequence.watched and sequence.decoding]
        for sequence in finished:
            self.remove(sequence)
        return Progress(finished, watched)

    def _bounds(self) -> Bounds:
        if self.online_first is None:
            return Bounds(self.profile.step_tokens_max)
        if not self.online_first.is_off:
            self._make_room_for_online()
        return self.online_first.bounds(
            self.running,
            list(self._online_waiting),
            step_tokens_max=self.profile.step_tokens_max,
            slots=self.profile.running_max,
        )

    def _make_room_for_online(self) -> None:
        """Give back slots and blocks of the youngest of the batch while online sequences would not get theirs."""
        if not self._online_waiting:
            return
        slots = len(self.running) + len(self._online_waiting) - self.profile.running_max
        blocks = sum(
            len(sequence.block_hashes) + self._private_blocks(sequence, sequence.generated + 1)
            for sequence in self._online_waiting
        )
        victims = sorted((each for each in self.running if not each.is_online), key=lambda each: each.order)
        while victims and (slots > 0 or self.cache.free < blocks):
            self._preempt(victims.pop())
            slots -= 1

    def _wait(self, sequence: SequenceState) -> None:
        self._waiting_members.add(sequence)
        if sequence.is_online:
            self._online_waiting.add(sequence)
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

    def _make_room(self, parked: frozenset[SequenceState]) -> None:
        """Preempt the latest of the least urgent until every sequence that takes part can have its next block."""
        while self.running:
            needed = sum(
                self._private_blocks(sequence, sequence.generated + 1) > sequence.private_blocks
                for sequence in self.running
                if sequence.decoding and sequence not in parked
            )
            if needed <= self.cache.free or len(self.running) == 1:
                return
            self._preempt(max(self.running, key=lambda sequence: sequence.order))

    def _preempt(self, victim: SequenceState) -> None:
        """Back to waiting, without slot or blocks; what it has generated stays and is read again as prompt."""
        self.running.remove(victim)
        self._release(victim)
        victim.prefilled = 0
        self.preemptions += 1
        self._wait(victim)

    def _release(self, sequence: SequenceState) -> None:
        self.cache.release(sequence.block_hashes, sequence.private_blocks)
        sequence.private_blocks = 0

    def _admit(self, batch_max: int | None) -> None:
        """The most urgent first, as many as there are slots and blocks for, at most `batch_max` of the batch."""
        entered = 0
        while self._waiting and len(self.running) < self.profile.running_max:
            _, sequence = self._waiting[0]
            if sequence not in self._waiting_members:
                heapq.heappop(self._waiting)
                continue
            if batch_max is not None and not sequence.is_online and entered >= batch_max:
                return
            private = self._private_blocks(sequence, sequence.generated + 1)
            matched = self.cache.admit(sequence.block_hashes, private)
            if matched is None:
                return
            heapq.heappop(self._waiting)
            self._waiting_members.remove(sequence)
            self._online_waiting.discard(sequence)
            entered += not sequence.is_online
            sequence.private_blocks = private
            sequence.prefill_target = sequence.prompt_tokens + sequence.generated
            # The last prompt token is always computed: it yields the first output token.
            cached = min(matched * self.profile.block_tokens, sequence.prompt_tokens - 1)
            sequence.cached_tokens = max(cached, 0)
            sequence.prefilled = sequence.cached_tokens
            self.running.append(sequence)

    def _prefill_chunks(
        self, taking_part: Sequence[SequenceState], step_tokens_max: int
    ) -> list[tuple[SequenceState, int]]:
        """What the decodes leave of the step's tokens, in order of admission; online prompts first when bounded."""
        room = step_tokens_max - sum(sequence.decoding for sequence in taking_part)
        if self.online_first is not None and not self.online_first.is_off:
            taking_part = sorted(taking_part, key=lambda sequence: not sequence.is_online)
        chunks: list[tuple[SequenceState, int]] = []
        for sequence in taking_part:
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
