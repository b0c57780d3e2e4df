"""`[reuse]`: identical requests that would get the same answer are run once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ReuseSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    default: Literal["off", "batch", "server"] = Field(
        "off",
        description="batches that do not say: identical lines run once within the `batch`, or across the `server`'s",
    )
    kept_mib_max: int = Field(
        1024, ge=1, description="answers kept for later batches (MiB); the longest unused go first"
    )
    kept_days: float = Field(14.0, gt=0, le=36_500, description="life of a kept answer since it was last used")
