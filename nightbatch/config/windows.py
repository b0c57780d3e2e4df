"""`[windows]`: the off-peak hours, and what batch work does outside them."""

from __future__ import annotations

import difflib
from datetime import date, time
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nightbatch.config.signal import SignalConfig
from scheduler.facts.windows import DAY_NAMES, Calendar, Window, window_days

END_OF_DAY = "24:00"


class OffPeakConfig(BaseModel):
    """`days` are those on which the window starts; one whose `end` is not after its `start` ends on the next day."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("off-peak", min_length=1, max_length=64, description="what status and logs call it")
    days: tuple[str, ...] = Field(
        DAY_NAMES, min_length=1, description='days on which it starts, such as `["mon-fri", "sun"]`'
    )
    start: str = Field(description="local time at which it opens, such as `22:00`")
    end: str = Field(description="local time at which it closes; not after `start`: on the next day")

    @field_validator("days")
    @classmethod
    def _are_days(cls, days: tuple[str, ...]) -> tuple[str, ...]:
        window_days(days)
        return days

    @field_validator("start", "end")
    @classmethod
    def _is_a_time(cls, text: str) -> str:
        clock(text)
        return text

    def window(self, zone: ZoneInfo) -> Window:
        return Window(self.name, window_days(self.days), clock(self.start), clock(self.end), zone)


class WindowsSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    timezone: str | None = Field(None, description="zone of all times here, such as `Europe/Berlin`")
    outside: Literal["fill", "hold"] = Field(
        "fill",
        description="`fill`: batches run at any hour; `hold`: they wait while deadlines allow",
    )
    holidays: tuple[date, ...] = Field((), description="dates that are off-peak all day")
    off_peak: tuple[OffPeakConfig, ...] = Field((), max_length=64, description="the windows, see below")
    signal: SignalConfig | None = Field(None, description="what says from outside that batches should wait, see below")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            zone(name)
        return name

    @model_validator(mode="after")
    def _is_whole(self) -> WindowsSection:
        if (self.off_peak or self.holidays) and self.timezone is None:
            raise ValueError('timezone is missing: whose 22:00 is meant? For example timezone = "Europe/Berlin"')
        if self.outside == "hold" and not self.off_peak:
            raise ValueError('outside = "hold" needs a window to wait for: add [[windows.off_peak]] with start and end')
        return self

    def calendar(self) -> Calendar:
        if self.timezone is None:
            return Calendar()
        place = zone(self.timezone)
        return Calendar(tuple(one.window(place) for one in self.off_peak), frozenset(self.holidays), place)


def clock(text: str) -> time:
    """`22:00`, and `24:00` for the end of a day. ValueError says how to write it."""
    if text == END_OF_DAY:
        return time(0)
    try:
        found = time.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None or len(text) != len("22:00"):
        raise ValueError(f"{text!r} is no time of day: write it as 22:00")
    return found


def zone(name: str) -> ZoneInfo:
    """ValueError names the zones that are spelled nearly so."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near: list[Any] = difflib.get_close_matches(name, available_timezones(), n=3)
        hint = f" Did you mean {', '.join(sorted(near))}?" if near else " Names look like Europe/Berlin."
        raise ValueError(f"{name!r} is no time zone of this machine.{hint}") from None
