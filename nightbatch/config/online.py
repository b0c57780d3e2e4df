"""`[online]`: how batch work yields to online requests on engines that are bounded from outside."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class OnlineSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    online_slots: int = Field(
        2, ge=0, description="slots of an engine that batches leave free while online requests come now and then"
    )
    quiet_seconds: float = Field(
        120.0, gt=0, description="after so long without an online request an engine is the batches' alone (s)"
    )
    inflight_min: int = Field(1, ge=1, description="batch requests that run beside online ones whatever these feel")
    inflight_untrusted: int = Field(
        8, ge=1, description="batch requests beside online ones while an engine's step times are not known yet"
    )
    idle_factor: float = Field(
        5.0, gt=1, le=1000, description="how long a step may be while an online request may come, times one alone"
    )
    take_back_share: float = Field(
        0.05, ge=0, lt=1, description="part of the batches' work that may be lost by taking requests back; 0: none"
    )
    call_ms: float = Field(
        50.0, gt=0, description="length of one call beside online requests, for engines that embed or rank (ms)"
    )
    call_share: float = Field(0.25, gt=0, le=1, description="part of the time that such calls take beside them")

    def model_post_init(self, _context: object) -> None:
        if self.inflight_min > self.inflight_untrusted:
            raise ValueError("inflight_min must not be above inflight_untrusted")
