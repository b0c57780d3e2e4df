"""`[windows.signal]`: a URL or a file that says when batch work should wait, whatever the clock says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

HOUR = 3600
DAY = 24 * HOUR


class SignalConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("signal", min_length=1, max_length=64, description="what status and logs call it")
    url: str | None = Field(None, description="read with one GET, `https://...`")
    file: Path | None = Field(None, description="or this file is read")
    json_path: str | None = Field(
        None, min_length=1, max_length=256, description="where in a JSON text the reading is, such as `data.0.price`"
    )
    regex: str | None = Field(
        None, min_length=1, max_length=1000, description="or a pattern; its first group, or else all of it"
    )
    hold_above: float | None = Field(
        None, allow_inf_nan=False, description="batches wait while the number is above this"
    )
    hold_below: float | None = Field(None, allow_inf_nan=False, description="or while it is below this")
    busy_when: str | None = Field(None, min_length=1, description="or while the reading is this text, in any case")
    resume_margin: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="how far a number must come back over its limit before they go on"
    )
    every_seconds: float = Field(60.0, ge=1, le=DAY, description="how often it is read (s)")
    timeout_seconds: float = Field(5.0, gt=0, le=300, description="longest that one look may take (s)")
    stale_after_seconds: float = Field(
        300.0, gt=0, le=7 * DAY, description="a reading counts for so long when later looks fail (s)"
    )
    file_seconds_max: float | None = Field(
        None, gt=0, description="a file that was written longer ago says nothing (s); any age if not given"
    )
    on_failure: Literal["clock", "hold"] = Field(
        "clock", description="without a reading the `clock` alone decides, or batches wait (`hold`)"
    )
    token_env: str | None = Field(
        None, min_length=1, description="name of the variable that holds a bearer token for the URL"
    )
    allow_private: bool = Field(False, description="the URL may be on a private or loopback address, and plain `http`")

    @field_validator("regex")
    @classmethod
    def _is_a_pattern(cls, regex: str | None) -> str | None:
        if regex is not None:
            try:
                re.compile(regex)
            except re.error as error:
                raise ValueError(f"{regex!r} is no regular expression: {error}") from None
        return regex

    @field_validator("json_path")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not all(path.split(".")):
            raise ValueError(f"{path!r} is no path: write it as data.0.price")
        return path

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"{url!r} is no URL: write it as https://example.com/price")
        return url

    @model_validator(mode="after")
    def _is_whole(self) -> SignalConfig:
        _one_of(self, ("url", "file"))
        _one_of(self, ("hold_above", "hold_below", "busy_when"))
        if self.json_path is not None and self.regex is not None:
            raise ValueError("json_path and regex are both set: the reading is in one place")
        if self.url is not None and self.url.startswith("http:") and not self.allow_private:
            raise ValueError("url is http: use https, or set allow_private = true for one on your own network")
        if self.busy_when is not None and self.resume_margin:
            raise ValueError("resume_margin is for numbers: with busy_when it means nothing")
        for name in ("token_env", "allow_private"):
            if self.url is None and getattr(self, name):
                raise ValueError(f"{name} is for a url: a file needs none")
        if self.file is None and self.file_seconds_max is not None:
            raise ValueError("file_seconds_max is for a file: a url has no such age")
        if self.timeout_seconds > self.every_seconds:
            raise ValueError("timeout_seconds is longer than every_seconds: one look would meet the next")
        if self.stale_after_seconds < self.every_seconds:
            raise ValueError("stale_after_seconds is shorter than every_seconds: no reading would last until the next")
        return self


def _one_of(section: SignalConfig, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        found = "none is there" if not given else f"{' and '.join(given)} are set"
        raise ValueError(f"exactly one of {', '.join(names)} is needed: {found}")
