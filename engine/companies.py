"""Which engines are on a device together, where some come and go: memory is split among those of one company. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

COMPANIES_MAX = 256


def companies(engines: Sequence[str], apart: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """The largest sets of engines of which no two are `apart` (never there at the same time), each in the order given.

    Raises ValueError beyond COMPANIES_MAX: so many turn groups on one device are a mistake.
    """
    beside = {
        one: {
            other
            for other in engines
            if other != one and other not in apart.get(one, ()) and one not in apart.get(other, ())
        }
        for one in engines
    }
    found: list[tuple[str, ...]] = []
    for company in _cliques(set(), set(engines), set(), beside):
        found.append(tuple(engine for engine in engines if engine in company))
        if len(found) > COMPANIES_MAX:
            raise ValueError(f"the models take turns in more than {COMPANIES_MAX} ways: use fewer turn groups")
    place = {engine: number for number, engine in enumerate(engines)}
    return sorted(found, key=lambda company: [place[engine] for engine in company])


def _cliques(
    chosen: set[str], open_ones: set[str], closed: set[str], beside: Mapping[str, set[str]]
) -> Iterator[set[str]]:
    """Bron and Kerbosch, with a pivot."""
    if not open_ones and not closed:
        yield chosen
        return
    pivot = max(open_ones | closed, key=lambda engine: len(beside[engine] & open_ones))
    for engine in sorted(open_ones - beside[pivot]):
        yield from _cliques(chosen | {engine}, open_ones & beside[engine], closed & beside[engine], beside)
        open_ones = open_ones - {engine}
        closed = closed | {engine}
