"""How the engines are fed, in words."""

from __future__ import annotations

from typing import Any

from nightbatch.feeding import sentences, warnings

NO_FRONT = {"core_share": None, "ms_per_request": None, "requests_per_s": None, "warning": None}
BUSY_FRONT = {"core_share": 0.72, "ms_per_request": 3.1, "requests_per_s": 232.0, "warning": "The front is slow."}


def engine(**fields: Any) -> dict[str, Any]:
    return {"name": "chat", "slots": 32, "busy_share": None, "running_mean": None, "front": NO_FRONT} | fields


def test_an_engine_is_told_of_with_its_share_and_its_front() -> None:
    found = {"data": [engine(busy_share=0.974, running_mean=30.25, front=BUSY_FRONT), engine()], "server": NO_FRONT}
    [told] = sentences(found)
    assert told.startswith("engine chat: busy 97% of the time in which lines waited, 30.2 of 32 requests at once, ")
    assert told.endswith(", its front takes 3.1 ms of CPU for a request, 72% of a core")
    assert warnings(found) == ["warning: The front is slow."]


def test_a_server_that_knows_nothing_yet_says_nothing() -> None:
    found = {"data": [engine(slots=None)], "server": NO_FRONT}
    assert sentences(found) == warnings(found) == []


def test_the_servers_own_loop_is_warned_of_too() -> None:
    found = {"data": [], "server": NO_FRONT | {"warning": "The loop is slow."}}
    assert warnings(found) == ["warning: The loop is slow."]
