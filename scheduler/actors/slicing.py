"""A line that is sent in slices: what has come back of it, and when its result is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.merging import Part, join, read_part
from engine.protocol import EngineResult
from engine.slices import Slices
from scheduler.actors.held import Line
from scheduler.facts.result_lines import LineError
from scheduler.policy.packer import Cost

Ending = EngineResult | LineError
"""How a line ends: with an engine's answer, or without one."""


@dataclass(slots=True, eq=False)
class Division:
    """A divided line. Its answers so far stay in memory; a restart generates them again.

    `needed` is the number of leading slices that decide the result: a refused slice makes all behind it needless, and
    the line ends with the refusal once none before it can be refused any more. So the result does not depend on which
    answer comes first.
    """

    line: Line
    slices: Slices
    needed: int
    parts: dict[int, Part] = field(default_factory=dict)
    refusal: Ending | None = None

    def take(self, no: int, ending: Ending) -> Ending | None:
        """Slice `no` has ended. Returns the end of the line when that is known now. Raises Unmergeable."""
        if no >= self.needed:
            return None
        if isinstance(ending, EngineResult) and ending.ok:
            self.parts[no] = read_part(self.slices, no, ending)
        else:
            self.needed, self.refusal = no, ending
            self.parts = {other: part for other, part in self.parts.items() if other < no}
        if len(self.parts) < self.needed:
            return None
        return self.refusal or join(self.slices, self.parts.values())

    def abandon(self) -> None:
        """The result of the line is known otherwise: no slice is needed any more."""
        self.needed = 0
        self.parts.clear()


@dataclass(slots=True, eq=False)
class Slice(Line):
    """A slice in the place of its line: it waits, is sent, dies and is blamed under the line's name.

    `body` is still the line's own; what is sent is made when it is sent.
    """

    division: Division = field(kw_only=True)
    no: int = field(kw_only=True)

    @property
    def is_gone(self) -> bool:
        return self.shard.is_gone or self.no >= self.division.needed

    @property
    def request_name(self) -> str:
        return f"{self.line_no}.{self.no}"

    def request_body(self) -> bytes:
        return self.division.slices.body(self.no)


def divide(line: Line, slices: Slices) -> list[Slice]:
    division = Division(line, slices, len(slices))
    costs = [
        Cost(slices.sub_requests(no), math.ceil(line.cost.tokens * share)) for no, share in enumerate(slices.shares())
    ]
    return [
        Slice(line.shard, line.line_no, line.custom_id, line.body, cost, whole=True, division=division, no=no)
        for no, cost in enumerate(costs)
    ]
