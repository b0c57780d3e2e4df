"""Who is online where, as batch work sees it."""

from __future__ import annotations

import pytest

from engine.presence import Presence


def test_a_request_that_a_listener_fails_is_not_present_for_ever() -> None:
    presence, fails = Presence({"chat": frozenset({"cpu"})}), [True]

    def listen() -> None:
        if fails:
            fails.pop()
            raise RuntimeError("a listener's own mistake")

    presence.on_change(listen)
    with pytest.raises(RuntimeError), presence.online("chat"):
        raise AssertionError("not reached")
    assert presence.on_engine("chat") == 0
    with presence.online("chat"):
        assert presence.here() == 1
    assert presence.anywhere() == 0
