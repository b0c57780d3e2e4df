"""Which cores an engine computes on."""

from __future__ import annotations

import pytest

from engine.cores import Core, CoreWish, plan_cores, ranges

TWO_CORES = [Core(0, 0, 0), Core(1, 1, 0)]
TWO_THREADS_EACH = [Core(cpu, cpu % 4, 0) for cpu in range(8)]
TWO_NODES = [Core(cpu, cpu, cpu // 4) for cpu in range(8)]


def test_two_engines_on_two_cores_both_get_all_of_them() -> None:
    plan = plan_cores(TWO_CORES, [CoreWish("chat"), CoreWish("embed")])
    assert plan.bindings == {"chat": "0-1", "embed": "0-1"}
    assert plan.lines == ("cores of chat: 0-1", "cores of embed: 0-1")


def test_one_thread_of_each_physical_core_is_used() -> None:
    assert plan_cores(TWO_THREADS_EACH, [CoreWish("chat")]).bindings["chat"] == "0-3"


def test_engines_go_round_the_memory_nodes() -> None:
    plan = plan_cores(TWO_NODES, [CoreWish("a"), CoreWish("b"), CoreWish("c")])
    assert plan.bindings == {"a": "0-3", "b": "4-7", "c": "0-3"}


def test_each_rank_of_an_engine_gets_a_node() -> None:
    assert plan_cores(TWO_NODES, [CoreWish("a", ranks=2)]).bindings["a"] == "0-3|4-7"


def test_more_ranks_than_nodes_divide_the_cores() -> None:
    assert plan_cores(TWO_NODES, [CoreWish("a", ranks=4)]).bindings["a"] == "0-1|2-3|4-5|6-7"
    assert plan_cores(TWO_CORES, [CoreWish("a", ranks=3)]).bindings["a"] == "0|1|0"


def test_a_binding_that_was_given_stays() -> None:
    assert plan_cores(TWO_CORES, [CoreWish("a", given="1")]).bindings["a"] == "1"


def test_no_cores_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no core"):
        plan_cores([], [CoreWish("a")])


def test_ranges_are_written_as_vllm_reads_them() -> None:
    assert ranges([5, 0, 1, 2]) == "0-2,5"
