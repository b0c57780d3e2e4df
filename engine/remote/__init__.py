"""An engine behind a URL: the vLLM server that somebody already runs, or any other OpenAI-compatible one."""

from engine.remote.engine import RemoteEngine
from engine.remote.settings import RemoteLimits

__all__ = ["RemoteEngine", "RemoteLimits"]
