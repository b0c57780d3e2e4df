"""Decides what runs when, and makes it run: durable records in, results out.

`scheduler.settings` is cheap to import; the rest is loaded when `Scheduler` is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduler.settings import SchedulerSettings

if TYPE_CHECKING:
    from scheduler.loop import Scheduler

__all__ = ["Scheduler", "SchedulerSettings"]


def __getattr__(name: str) -> Any:
    if name != "Scheduler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scheduler.loop import Scheduler

    return Scheduler
