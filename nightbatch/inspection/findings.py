"""What was found, counted: however long the file is, only the first lines of each kind are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from nightbatch.inspection.kinds import KINDS, Level

EXAMPLES_MAX = 5
DETAILS_MAX = 200
"""Different details (field names, say) of one kind that are told apart; further ones are counted together."""
OTHERS = "others"


@dataclass(slots=True)
class Finding:
    """`detail` tells findings of one kind apart, such as a field's name. `line` is 0 for the file as a whole."""

    code: str
    detail: str
    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    @property
    def level(self) -> Level:
        return KINDS[self.code].level

    @property
    def title(self) -> str:
        return f"{self.code} {self.detail}" if self.detail else self.code


class Findings:
    def __init__(self, examples_max: int = EXAMPLES_MAX) -> None:
        self.examples_max = examples_max
        self._found: dict[tuple[str, str], Finding] = {}
        self._details: dict[str, int] = {}

    def of(self, code: str, detail: str = "") -> Finding:
        """The place to count findings of this kind and detail."""
        found = self._found.get((code, detail))
        if found is not None:
            return found
        if self._details.get(code, 0) >= DETAILS_MAX and detail != OTHERS:
            return self.of(code, OTHERS)
        self._details[code] = self._details.get(code, 0) + 1
        found = self._found[code, detail] = Finding(code, detail)
        return found

    def add(self, code: str, line: int, message: str, *, detail: str = "", count: int = 1) -> None:
        found = self.of(code, detail)
        found.count += count
        if len(found.examples) < self.examples_max:
            found.examples.append((line, message))

    def all(self) -> list[Finding]:
        """The gravest first, then the most frequent."""
        levels = list(Level)
        found = [one for one in self._found.values() if one.count]
        return sorted(found, key=lambda one: (levels.index(one.level), -one.count, one.code, one.detail))

    def get(self, code: str) -> list[Finding]:
        return [one for one in self.all() if one.code == code]
