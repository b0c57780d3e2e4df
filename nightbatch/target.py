"""Which server the command talks to. Apart from the client, because that imports half a second of openai package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

URL_DEFAULT = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Target:
    """Which server, and as whom."""

    url: str
    api_key: str | None = None

    @classmethod
    def find(cls, url: str | None, api_key: str | None, environment: Mapping[str, str] | None = None) -> Target:
        """Flag, then NIGHTBATCH_URL / NIGHTBATCH_API_KEY, then OPENAI_BASE_URL / OPENAI_API_KEY, then this machine.

        An OpenAI key goes only to the server that OPENAI_BASE_URL names: never to another one by accident.
        """
        environment = os.environ if environment is None else environment
        own = url or environment.get("NIGHTBATCH_URL")
        theirs = environment.get("OPENAI_BASE_URL")
        key = api_key or environment.get("NIGHTBATCH_API_KEY")
        if not own and theirs:
            return cls(_root(theirs), key or environment.get("OPENAI_API_KEY"))
        return cls(_root(own or URL_DEFAULT), key)


def _root(url: str) -> str:
    url = url if "://" in url else f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")
