from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import marked_server, small_batch
from benchmarks.form import CouldNotMeasure
from benchmarks.marked_server import Passing
from benchmarks.small_batch import PHASES, Walk, phases_of
from store.markers import MARKERS

WALK = Walk(began=0.0, uploaded=4.0, seen=16.0, downloaded=17.0)


def passings() -> list[Passing]:
    """Each phase takes a second."""
    return [Passing(float(place + 1), moment) for place, (moment, _) in enumerate(PHASES) if moment in MARKERS]


def test_the_phases_follow_one_another_without_a_gap() -> None:
    phases = phases_of(WALK, passings())
    assert phases == {name: 1.0 for _, name in PHASES}
    assert sum(phases.values()) == WALK.seconds


def test_of_many_lines_the_engine_works_from_the_first_to_the_last() -> None:
    more = [Passing(9.5, "request.started"), Passing(9.9, "request.answered"), Passing(9.95, "append.synced")]
    phases = phases_of(WALK, sorted([*passings(), *more], key=lambda one: one.at))
    assert (phases["engine"], phases["append"]) == (1.0, 1.0)


def test_what_another_batch_passed_does_not_count() -> None:
    others = [Passing(one.at + 100, one.marker) for one in passings()]
    assert phases_of(WALK, [*passings(), *others]) == phases_of(WALK, passings())


def test_batches_of_several_clients_count_from_the_first_to_the_last() -> None:
    assert small_batch.rate_of([Walk(0.0, 1.0, 2.0, 3.0), Walk(1.0, 2.0, 3.0, 4.0)]) == 0.5


def test_a_walk_with_a_hole_is_no_measurement() -> None:
    with pytest.raises(CouldNotMeasure, match=r"did not pass shard\.sealed"):
        phases_of(WALK, [one for one in passings() if one.marker != "shard.sealed"])


def test_every_marker_between_is_known_to_the_server() -> None:
    assert {moment for moment, _ in PHASES if not moment.startswith("client.")} <= set(MARKERS)


def test_passings_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "markers"
    path.write_text("2.000000 shard.sealed\n1.000000 append.synced\n")
    assert marked_server.read(path) == [Passing(1.0, "append.synced"), Passing(2.0, "shard.sealed")]


def test_a_real_server_is_measured_phase_by_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_batch, "SIZES", (1, 8))
    path = tmp_path / "report.json"
    assert small_batch.main(["--quick", "--rounds", "1", "--batches", "2", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert set(document["figures"]) == {
        "fixed_cost_s",
        "first_batch_s",
        "batches_per_s_16_clients",
        "fixed_cost_8_lines_s",
    }
    one, eight = document["arms"]
    assert (one["facts"]["lines"], eight["facts"]["lines"]) == (1, 8)
    assert {f"{name}_ms" for _, name in PHASES} < set(eight["figures"])
    assert eight["figures"]["batch_s"]["n"] == 2
