"""What an outside signal means: whether what a URL or file says is a reason for batch work to wait. Pure.

A reading counts for a while. What is older, or was never there, says nothing: then the clock alone decides.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import Any

VALUE_CHARS_MAX = 60
"""How much of a reading is shown to people."""


class Unreadable(Exception):
    """The signal was not read, or what it says is none of what was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Where in the text the reading is (`json_path`, `regex`, or all of it), and when it means busy: exactly one of the
    last three is set. `resume_margin` is how far a number must go back over its limit before work goes on."""

    json_path: str | None = None
    regex: str | None = None
    hold_above: float | None = None
    hold_below: float | None = None
    busy_when: str | None = None
    resume_margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`shown` is the reading in words: `312.4 is above 250`."""

    busy: bool
    shown: str


@dataclass(frozen=True, slots=True)
class SignalState:
    """`verdict` is that of the last good reading, `held` the one that work has waited for since `busy_since`: a reason
    that changed with each reading would be told again each time. `problem` is why the last look gave no reading."""

    verdict: Verdict | None = None
    read_at: float = -math.inf
    held: Verdict | None = None
    busy_since: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SignalRules:
    """`hold_on_failure`: a signal that is not known counts as busy; otherwise as nothing."""

    name: str
    condition: Condition
    stale_after_seconds: float
    hold_on_failure: bool
    zone: tzinfo


def judge(text: str, condition: Condition, *, was_busy: bool) -> Verdict:
    """Raises Unreadable when the reading is not in the text, or is no number where one is compared."""
    reading = reading_of(text, condition)
    if condition.busy_when is not None:
        return Verdict(reading.casefold() == condition.busy_when.strip().casefold(), f"it says {_cut(reading)}")
    value = _number(reading)
    margin = condition.resume_margin if was_busy else 0.0
    if condition.hold_above is not None:
        busy, limit, beyond = value > condition.hold_above - margin, condition.hold_above, value > condition.hold_above
        return Verdict(busy, f"{value:g} is {'above' if beyond else 'not above'} {limit:g}")
    assert condition.hold_below is not None
    busy, limit, beyond = value < condition.hold_below + margin, condition.hold_below, value < condition.hold_below
    return Verdict(busy, f"{value:g} is {'below' if beyond else 'not below'} {limit:g}")


def reading_of(text: str, condition: Condition) -> str:
    if condition.json_path is not None:
        return _at(text, condition.json_path)
    if condition.regex is not None:
        found = re.search(condition.regex, text)
        if found is None:
            raise Unreadable(f"the pattern {condition.regex!r} is nowhere in what it says")
        return (found[1] if found.re.groups else found[0] or "").strip()
    return text.strip()


def seen(state: SignalState, verdict: Verdict, now: float) -> SignalState:
    """After a good reading."""
    if not verdict.busy:
        return SignalState(verdict=verdict, read_at=now)
    if state.held is not None:
        return replace(state, verdict=verdict, read_at=now, problem=None)
    return SignalState(verdict=verdict, read_at=now, held=verdict, busy_since=now)


def failed(state: SignalState, problem: str) -> SignalState:
    """After a look that gave no reading: the last one goes on counting until it is stale."""
    return replace(state, problem=problem)


def is_known(state: SignalState, rules: SignalRules, now: float) -> bool:
    return state.verdict is not None and now - state.read_at <= rules.stale_after_seconds


def wait_reason(state: SignalState, rules: SignalRules, now: float) -> str | None:
    """Why batch work waits now, for people and without a full stop; None when the signal is no reason to."""
    if not is_known(state, rules, now):
        if not rules.hold_on_failure:
            return None
        why = f" ({state.problem})" if state.problem else ""
        return f"Waits for the outside signal '{rules.name}', which cannot be read{why}"
    if state.held is None or state.busy_since is None:
        return None
    since = datetime.fromtimestamp(state.busy_since, rules.zone)
    return f"Waits since {since:%a %d %b %H:%M} for the outside signal '{rules.name}': {state.held.shown}"


def told(state: SignalState, rules: SignalRules, now: float) -> str:
    """What the signal says now and what follows from it, in one sentence."""
    name = f"signal '{rules.name}'"
    if is_known(state, rules, now):
        assert state.verdict is not None
        then = "batches wait while their deadline allows" if state.held is not None else "batches may run"
        return f"{name}: {state.verdict.shown}; {then}."
    why = state.problem or "it has not been looked at yet"
    then = "batches wait while their deadline allows" if rules.hold_on_failure else "the clock alone decides"
    return f"{name} is not known: {why}; {then}."


def _at(text: str, path: str) -> str:
    try:
        here: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("what it says is no JSON") from None
    for part in path.split("."):
        inside = here.get(part) if isinstance(here, dict) else _item(here, part)
        if inside is None:
            raise Unreadable(f"{path!r} is not in what it says: there is no {part!r}")
        here = inside
    if isinstance(here, dict | list):
        raise Unreadable(f"{path!r} is a list or an object, not a value")
    return str(here).strip() if isinstance(here, str) else json.dumps(here)


def _item(here: Any, part: str) -> Any:
    """`-1` is the last one."""
    try:
        return here[int(part)] if isinstance(here, list) else None
    except (ValueError, IndexError):
        return None


def _number(reading: str) -> float:
    try:
        value = float(reading)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise Unreadable(f"it says {_cut(reading)}, which is no number")
    return value


def _cut(reading: str) -> str:
    return repr(reading if len(reading) <= VALUE_CHARS_MAX else reading[:VALUE_CHARS_MAX] + "...")
