"""`slo` of a model: what its online requests are promised while batch work shares the engine."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.slo import ITL_FACTOR, TTFT_FACTOR, Slo

MS_MAX = 3_600_000.0


class SloConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_ms_p99: Literal["auto"] | float = Field(
        "auto", description="time to the first token (ms); `auto`: a factor of what it is without batch work"
    )
    itl_ms_p99: Literal["auto"] | float = Field(
        "auto", description="time from one token to the next (ms); `auto`: a factor of what it is without batch work"
    )
    ttft_factor: float = Field(TTFT_FACTOR, ge=1.05, le=100, description="the factor of `ttft_ms_p99` at `auto`")
    itl_factor: float = Field(ITL_FACTOR, ge=1.05, le=100, description="the factor of `itl_ms_p99` at `auto`")

    def model_post_init(self, _context: object) -> None:
        for name in ("ttft_ms_p99", "itl_ms_p99"):
            value = getattr(self, name)
            if value != "auto" and not 0 < value <= MS_MAX:
                raise ValueError(f'{name} is a time in ms above 0, or "auto", not {value:g}')

    def promised(self) -> Slo:
        ttft, itl = (None if given == "auto" else given for given in (self.ttft_ms_p99, self.itl_ms_p99))
        return Slo(ttft, itl, self.ttft_factor, self.itl_factor)
