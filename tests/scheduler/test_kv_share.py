"""The share of an engine's memory that predictions may fill."""

from __future__ import annotations

from scheduler.policy.kv_share import CUT, REST_SECONDS, SHARE_MIN, KvShare


def test_an_engine_that_pushes_requests_out_gets_less_and_slowly_more_again() -> None:
    kv = KvShare()
    assert not kv.see(5, now=0.0), "what happened before says nothing of our predictions"
    assert kv.see(6, now=1.0)
    assert kv.share == CUT
    assert not kv.see(9, now=1.1), "what is in flight must end before a cut is felt"
    assert kv.see(10, now=1.1 + REST_SECONDS)
    lowest = kv.share
    assert not kv.see(10, now=4.0)
    assert lowest < kv.share < 1.0
    assert not kv.see(10, now=10_000.0)
    assert kv.share == 1.0


def test_it_never_falls_to_nothing_and_a_new_life_begins_anew() -> None:
    kv = KvShare()
    for second in range(0, 300, 3):
        kv.see(second, now=float(second))
    assert kv.share == SHARE_MIN
    assert not kv.see(0, now=301.0)
    assert kv.see(1, now=302.0)


def test_what_online_requests_push_out_says_nothing_of_predictions() -> None:
    kv = KvShare()
    kv.see(0, now=0.0)
    assert not kv.see(7, now=1.0, is_ours=False)
    assert kv.share == 1.0
    assert not kv.see(7, now=2.0)
