"""Whether every request of an input file came back, and only once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Comparison:
    """Custom ids: asked for but not there, there more than once, there but never asked for."""

    asked: int
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not (self.missing or self.repeated or self.unknown)

    def says(self) -> str:
        if self.exact:
            return f"all {self.asked} custom_ids came back, each exactly once"
        parts = [
            f"{len(ids)} {what} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
            for what, ids in (("missing", self.missing), ("repeated", self.repeated), ("unknown", self.unknown))
            if ids
        ]
        return f"of {self.asked} custom_ids: {'; '.join(parts)}"


def compare(asked: Path, came: Sequence[Path]) -> Comparison:
    """`came` are the output file and the error file, as far as there are any."""
    wanted = set(custom_ids(asked))
    seen = Counter(custom_id for path in came for custom_id in custom_ids(path))
    return Comparison(
        asked=len(wanted),
        missing=tuple(sorted(wanted - seen.keys())),
        repeated=tuple(sorted(custom_id for custom_id, times in seen.items() if times > 1)),
        unknown=tuple(sorted(seen.keys() - wanted)),
    )


def custom_ids(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for line in lines:
            if line.strip():
                yield str(json.loads(line)["custom_id"])
