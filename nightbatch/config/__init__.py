"""What a server is told: built-in defaults, then nightbatch.toml, then the environment, then flags; the last one wins.

Importing this package costs half a second (pydantic-settings): the command does it only where a server is concerned.
"""

from __future__ import annotations

from nightbatch.config.flags import ServeFlags
from nightbatch.config.loading import find_file, load
from nightbatch.config.model import EMBEDDED, ModelConfig
from nightbatch.config.refusals import ConfigError
from nightbatch.config.sections import (
    Config,
    LoggingSection,
    SchedulerSection,
    ServerSection,
    StoreSection,
    TenantConfig,
)
from nightbatch.config.tiers import AdmissionSection, TierConfig

__all__ = [
    "EMBEDDED",
    "AdmissionSection",
    "Config",
    "ConfigError",
    "LoggingSection",
    "ModelConfig",
    "SchedulerSection",
    "ServeFlags",
    "ServerSection",
    "StoreSection",
    "TenantConfig",
    "TierConfig",
    "find_file",
    "load",
]
