"""Merging a batch with its retries: whatever became of each line, each custom_id comes once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from store.ended import EndedResults
from store.merging import merge
from store.result_ids import result_ids

Outcome = tuple[str, bool]


def write(folder: Path, name: str, outcomes: Sequence[Outcome]) -> tuple[Path | None, Path | None]:
    paths = []
    for kind in (True, False):
        lines = [
            f'{{"id":"batch_req_{result_ids(name, no)[0].decode()}","custom_id":"{custom_id}","response":"{name}"}}\n'
            for no, (custom_id, succeeded) in enumerate(outcomes)
            if succeeded is kind
        ]
        path = folder / f"{name}_{kind}"
        path.write_text("".join(lines))
        paths.append(path if lines else None)
    return paths[0], paths[1]


@st.composite
def families(draw: st.DrawFn) -> list[list[Outcome]]:
    """A batch and its retries: each takes some lines, in order, of any batch before it."""
    count = draw(st.integers(0, 30))
    family = [[(f"row-{no}", draw(st.booleans())) for no in range(count)]]
    for _ in range(draw(st.integers(0, 4))):
        parent = draw(st.sampled_from(family))
        family.append([(name, draw(st.booleans())) for name, _ in parent if draw(st.booleans())])
    return family


@given(families())
def test_each_custom_id_comes_once_with_its_newest_success_or_else_its_newest_error(
    family: list[list[Outcome]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        opened = [
            stack.enter_context(
                EndedResults(f"batch_{no}", len(outcomes), *write(Path(folder), f"batch_{no}", outcomes))
            )
            for no, outcomes in enumerate(family)
        ]
        found = [
            (json.loads(line.raw)["custom_id"], line.succeeded, json.loads(line.raw)["response"])
            for line in merge(opened[0], opened[1:])
        ]
    expected = []
    for custom_id, _ in family[0]:
        tries = [(ok, f"batch_{no}") for no, batch in enumerate(family) for name, ok in batch if name == custom_id]
        successes = [one for one in tries if one[0]]
        expected.append((custom_id, *(successes or tries)[-1]))
    assert found == expected
