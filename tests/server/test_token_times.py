"""What of a stream counts as waiting for the engine."""

from __future__ import annotations

import pytest

from engine.online_meter import GAPS_KEPT, KEPT_SECONDS, OnlineMeter
from engine.protocol import CHAT_COMPLETIONS
from server.openai.token_times import TokenTimes, has_token

OPENING = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"Par"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("frame", "expected"), [(OPENING, False), (TOKEN, True), (USAGE, False), (DONE, False)])
def test_openings_counts_and_ends_are_no_tokens(frame: bytes, expected: bool) -> None:
    assert has_token(frame) is expected


def test_the_first_token_is_timed_from_the_request_and_the_others_from_one_to_the_next() -> None:
    clock, meter = Clock(), OnlineMeter(monotonic=lambda: 1000.0)
    times = TokenTimes(meter, engine="e", endpoint=CHAT_COMPLETIONS, started=0.0, clock=clock)
    for at, frame in ((0.01, OPENING), (0.25, TOKEN), (0.30, TOKEN), (0.36, TOKEN), (0.37, USAGE), (0.38, DONE)):
        clock.now = at
        times.came(frame)
        times.sent()
    assert meter.ttfts_ms("e") == [pytest.approx(250.0)]
    # The opening and the usage in between are no tokens, and no pauses either.
    assert meter.gaps_ms("e") == [pytest.approx(50.0), pytest.approx(60.0)]


def test_the_time_in_which_a_slow_client_takes_a_frame_is_no_gap() -> None:
    clock, meter = Clock(), OnlineMeter(monotonic=lambda: 1000.0)
    times = TokenTimes(meter, engine="e", endpoint=CHAT_COMPLETIONS, started=0.0, clock=clock)
    clock.now = 0.1
    times.came(TOKEN)
    clock.now = 9.0
    times.sent()
    clock.now = 9.03
    times.came(TOKEN)
    assert meter.gaps_ms("e") == [pytest.approx(30.0)]


def test_the_meter_forgets_what_is_old_and_what_is_too_much() -> None:
    clock = Clock()
    meter = OnlineMeter(monotonic=clock)
    meter.gap("e", 1.0)
    clock.now = 5.0
    meter.gap("e", 2.0)
    assert meter.gaps_ms("e", since=-1.0) == [1.0, 2.0]
    assert meter.gaps_ms("e", since=0.0) == [2.0]
    clock.now = KEPT_SECONDS + 4.0
    assert meter.gaps_ms("e", since=-1.0) == [2.0]
    for _ in range(2 * GAPS_KEPT):
        meter.gap("e", 3.0)
    assert len(meter.gaps_ms("e")) == GAPS_KEPT
    assert meter.gaps_ms("other") == []
    assert meter.ttfts_ms("e") == []
