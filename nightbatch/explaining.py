"""`nightbatch status BATCH --explain`: a batch's schedule in words, from what the server says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Moment = Callable[[int], str]
Span = Callable[[float], str]


def rows(schedule: Mapping[str, Any], *, moment: Moment, span: Span) -> list[tuple[str, str]]:
    """Names and values, in the order in which one asks: does it run, why, who is ahead, when will it be done."""
    found = [
        ("batch", str(schedule["batch_id"])),
        ("is", f"{schedule['state']} ({schedule['status']})"),
        ("why", str(schedule["reason"])),
        ("deadline", _deadline(schedule, moment)),
        ("slack", _slack(schedule, span)),
        ("work left", _work(schedule, span)),
        ("place", _place(schedule, span)),
        ("ahead", "\n".join(schedule["queue"]["ahead"])),
        ("order", schedule["queue"]["turn_reason"]),
        ("window", _window(schedule["window"], moment)),
        *(("engine", _engine(engine)) for engine in schedule["engines"]),
        ("disk", schedule["disk"]),
        ("starts about", _moment(schedule["starts_at"], moment)),
        ("ends about", _moment(schedule["ends_at"], moment)),
        ("seen", _moment(schedule["as_of"], moment)),
    ]
    return [(name, value) for name, value in found if value]


def _deadline(schedule: Mapping[str, Any], moment: Moment) -> str:
    then = "ends with what it has" if schedule["on_deadline"] == "expire" else "goes on past it"
    return f"{moment(schedule['expires_at'])}, tier {schedule['completion_window']}; it {then}"


def _slack(schedule: Mapping[str, Any], span: Span) -> str | None:
    slack, spare = schedule["slack_seconds"], schedule["spare_seconds"]
    if slack is None or schedule["state"] not in ("running", "waiting"):
        return None
    text = f"{span(slack)} if it ran alone" if slack >= 0 else f"none: {span(-slack)} too little even if it ran alone"
    if spare is not None:
        with_others = f"{span(spare)}" if spare >= 0 else f"{span(-spare)} too little"
        text += f"; {with_others} with all that is due before it"
    return text


def _work(schedule: Mapping[str, Any], span: Span) -> str | None:
    if not schedule["lines_left"]:
        return None
    text = f"{schedule['lines_left']:,} lines, {schedule['lines_in_flight']:,} of them in flight"
    work = schedule["work_seconds"]
    return text if work is None else f"{text}; about {span(work)} at the measured rate"


def _place(schedule: Mapping[str, Any], span: Span) -> str | None:
    queue = schedule["queue"]
    if queue["place"] is None:
        return None
    text = f"{queue['place']:,} of {queue['of']:,}, {queue['ahead_total']:,} ahead on the same model"
    if queue["ahead_total"] and queue["ahead_seconds"] is not None:
        text += f" with {span(queue['ahead_seconds'])} of work"
    return text


def _window(window: Mapping[str, Any] | None, moment: Moment) -> str | None:
    if window is None:
        return None
    if window["closes_at"] is not None:
        return f"{window['name']} is open until {moment(window['closes_at'])}"
    return f"{window['name']} opens at {moment(window['opens_at'])}"


def _engine(engine: Mapping[str, Any]) -> str:
    text = f"{engine['name']} is {engine['state']}"
    if engine["reason"]:
        text += f" ({engine['reason']})"
    if engine["online_requests"] or engine["neighbour_requests"]:
        text += f"; online requests: {engine['online_requests']} on it, {engine['neighbour_requests']} beside it"
    if engine["batch_requests_max"] is not None:
        text += f"; batch requests: {engine['batch_requests']} of {engine['batch_requests_max']} ({engine['pressure']})"
    return text


def _moment(at: int | None, moment: Moment) -> str | None:
    return None if at is None else moment(at)
